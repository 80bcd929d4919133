from .calibration import calibrate as calibrate
from .export import ExportInfo as ExportInfo
from .export import export as export
from .predictor import Prediction as Prediction
from .predictor import Predictor as Predictor
