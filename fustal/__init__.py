"""FuSTAL: full-stage pseudo label quality enhancement for weakly-supervised temporal action localization.

The package under the numbered notebooks. Read it in the order in which they use it: `params`, `annotations`,
`features`, `generator`, `proposals`, `student`, `distillation`, `evaluation`; `runs`, `training`, `parallel`, `batch`
carry them.
"""

import os
from pathlib import Path

# PyTorch's memory in large pages, where Linux has them: getting small ones costs more than the arithmetic on them.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")

ROOT = Path(__file__).resolve().parents[1]
"""The repository: `notebooks/`, `params/` and `outputs/` lie here, whatever the working directory is."""


class InputError(ValueError):
    """Something the user gave is wrong: a file, a parameter, a label. The message is one line that names it."""
