"""GPT-OSS in pure JAX: small enough to read in an evening, exact enough to trust."""

from gptoss_edu.cache import empty_cache
from gptoss_edu.chat import Chat
from gptoss_edu.config import GPT_OSS_20B, GPT_OSS_120B, Config
from gptoss_edu.generation import decode_step, generate, prefill, stream
from gptoss_edu.model import Model, Params, forward
from gptoss_edu.parser import Message, Piece
from gptoss_edu.reply import Reply, ToolCall
from gptoss_edu.sampling import Sampling
from gptoss_edu.tokenizer import Tokenizer
from gptoss_edu.weights.checkpoint import load_model, save_checkpoint

__version__ = "0.1.0"

__all__ = [
    "GPT_OSS_20B",
    "GPT_OSS_120B",
    "Chat",
    "Config",
    "Message",
    "Model",
    "Params",
    "Piece",
    "Reply",
    "Sampling",
    "Tokenizer",
    "ToolCall",
    "decode_step",
    "empty_cache",
    "forward",
    "generate",
    "load_model",
    "prefill",
    "save_checkpoint",
    "stream",
]
