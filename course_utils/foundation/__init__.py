"""What every chapter stands on: argument checks, evaluation mode, seeds, devices, progress bars, figures, results."""
