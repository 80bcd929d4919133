from .calibration import calibrate as calibrate
from .predictor import Prediction as Prediction
from .predictor import Predictor as Predictor
