"""From a trained model to its use."""

from steadyclip.deploy.predictor import Prediction, predict

__all__ = ["Prediction", "predict"]
