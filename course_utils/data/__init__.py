"""Data that is there without a network: scikit-learn's real sets, a real text, and the course's own pictures."""

from course_utils.data.pictures import PICTURE_CLASSES, Pictures, Scenes, generate_pictures, generate_scenes
from course_utils.data.tabular import TABLES, Split, load_split
from course_utils.data.text import Text, load_text

__all__ = [
    "PICTURE_CLASSES",
    "TABLES",
    "Pictures",
    "Scenes",
    "Split",
    "Text",
    "generate_pictures",
    "generate_scenes",
    "load_split",
    "load_text",
]
