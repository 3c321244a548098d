"""Which device is chosen, and which are refused."""

import pytest
import torch

from course_utils.foundation.devices import available_devices, choose_device


class TestDevices:
    def test_order_of_choice(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
        assert available_devices() == ["mps", "cpu"]
        assert choose_device().type == "mps"
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        assert choose_device().type == "cuda"
        assert choose_device("cpu").type == "cpu"

    def test_missing_and_unknown(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(ValueError, match="does not work here; available"):
            choose_device("cuda")
        with pytest.raises(ValueError, match="'auto', 'cuda', 'mps', 'cpu'"):
            choose_device("tpu")
