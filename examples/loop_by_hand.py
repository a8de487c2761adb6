"""A model, an optimizer, a loader and the loop, each an ordinary object: what `isogloss train` does, by hand.

python examples/loop_by_hand.py FILE...
"""

import sys
from pathlib import Path

import torch

from isogloss.build import materialise, plan_model
from isogloss.data.loader import Loader
from isogloss.data.prepare import FilesConfig, prepare
from isogloss.data.tokenizers.config import BytesConfig
from isogloss.init.schemes import LinguaConfig
from isogloss.mixers.attention import AttentionConfig
from isogloss.models.decoder import DecoderConfig
from isogloss.nn.feed_forward import SwiGLUConfig
from isogloss.optim.groups import AdamWConfig, create_optimizer
from isogloss.optim.schedules import WSDSchedule
from isogloss.train.hooks import every
from isogloss.train.loop import Progress, TrainConfig, training_steps

corpus = prepare(FilesConfig(train=tuple(sys.argv[1:]), prepared_dir=Path("prepared")), BytesConfig(), print)
tokenizer = corpus.tokenizer

planned = plan_model(
    DecoderConfig(
        d_model=64,
        n_layers=2,
        mixer=AttentionConfig(n_heads=4),
        ffn=SwiGLUConfig(d_ff=176),
        vocab_size=tokenizer.n_tokens,
    ),
    LinguaConfig(),
)
model = materialise(planned, seed=0, device=torch.device("cpu"))

optim = AdamWConfig(lr=3e-3, schedule=WSDSchedule(warmup=5))
optimizer = create_optimizer(model, optim, planned.plan)
loader = Loader(corpus.rows("train", seq_len=128), 4, seed=0)

hooks = [every(5, lambda info: print(f"step {info.step}: loss {info.loss:.3f}, gradient norm {info.grad_norm:.2f}"))]
train = TrainConfig(steps=30, batch_size=4)
for info in training_steps(model, optimizer, loader, train, optim, Progress(), precision="fp32"):
    for hook in hooks:
        hook(info)
