"""Data that is there without a network: scikit-learn's sets, a real text, the course's own images. And CIFAR-10."""

from course_utils.data.cifar10 import ImageData, ImageSet, load_cifar10
from course_utils.data.images import IMAGE_CLASSES, GeneratedImages, Scenes, generate_images, generate_scenes
from course_utils.data.recorded import RecordedOutputs, load_recorded_outputs
from course_utils.data.tabular import TABLES, Split, load_split
from course_utils.data.text import Text, load_text

__all__ = [
    "IMAGE_CLASSES",
    "TABLES",
    "GeneratedImages",
    "ImageData",
    "ImageSet",
    "RecordedOutputs",
    "Scenes",
    "Split",
    "Text",
    "generate_images",
    "generate_scenes",
    "load_cifar10",
    "load_recorded_outputs",
    "load_split",
    "load_text",
]
