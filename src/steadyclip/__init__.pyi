from .core.errors import SteadyClipError as SteadyClipError
from .data import ImageTask as ImageTask
from .data import load_data as load_data
from .evaluation import evaluate as evaluate
from .methods import get_method as get_method
from .models import DualEncoder as DualEncoder
from .models import load as load
from .training import fit as fit

__version__: str
