"""Data that is there without a network: scikit-learn's sets, a real text, the course's own pictures. And CIFAR-10."""

from course_utils.data.cifar10 import ImageData, ImageSet, load_cifar10
from course_utils.data.pictures import PICTURE_CLASSES, Pictures, Scenes, generate_pictures, generate_scenes
from course_utils.data.recorded import RecordedOutputs, load_recorded_outputs
from course_utils.data.tabular import TABLES, Split, load_split
from course_utils.data.text import Text, load_text

__all__ = [
    "PICTURE_CLASSES",
    "TABLES",
    "ImageData",
    "ImageSet",
    "Pictures",
    "RecordedOutputs",
    "Scenes",
    "Split",
    "Text",
    "generate_pictures",
    "generate_scenes",
    "load_cifar10",
    "load_recorded_outputs",
    "load_split",
    "load_text",
]
