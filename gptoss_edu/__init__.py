"""GPT-OSS in pure JAX: small enough to read in an evening, exact enough to trust."""

from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, Config
from gptoss_edu.generation import generate, stream
from gptoss_edu.model import Model, Params, forward
from gptoss_edu.reply import Reply
from gptoss_edu.tokenizer import Tokenizer
from gptoss_edu.weights.checkpoint import load_model, save_checkpoint

__version__ = "0.1.0"

__all__ = [
    "GPT_OSS_20B",
    "GPT_OSS_120B",
    "Config",
    "Model",
    "Params",
    "Reply",
    "Tokenizer",
    "forward",
    "generate",
    "load_model",
    "save_checkpoint",
    "stream",
]
