"""The trainer half of Kubooth: one `TrainConfig` in, a personalized model and a report out."""

__version__ = "0.1.0"
