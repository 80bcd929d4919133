from .config import TrainConfig as TrainConfig
from .run import Stopped as Stopped
from .run import load_run as load_run
from .soups import soup as soup
from .trainer import FitResult as FitResult
from .trainer import fit as fit
