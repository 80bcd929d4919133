from .core.errors import SteadyClipError as SteadyClipError
from .data import ImageTask as ImageTask
from .data import load_data as load_data
from .deploy import Prediction as Prediction
from .deploy import Predictor as Predictor
from .evaluation import evaluate as evaluate
from .experiments.rows import parse_row as parse_row
from .methods import Method as Method
from .methods import compose as compose
from .methods import get_method as get_method
from .models import DualEncoder as DualEncoder
from .models import load as load
from .report import verdict as verdict
from .training import fit as fit
from .training import load_run as load_run

__version__: str
