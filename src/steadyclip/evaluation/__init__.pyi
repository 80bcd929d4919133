from . import metrics as metrics
from .records import Record as Record
from .records import load_records as load_records
from .scorer import Scorer as Scorer
from .scoring import evaluate as evaluate
from .wise import averaged as averaged
from .wise import choose_alpha as choose_alpha
from .wise import evaluate_averaged as evaluate_averaged
