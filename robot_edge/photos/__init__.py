"""A robot without a camera: folders of photos are shown to a live robot and taught, class after class."""
