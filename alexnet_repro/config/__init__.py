"""The typed schema of conf/, with every check that needs no data. Numbers live in conf/, beside their section.

Unknown keys and wrong types fail before any work; a value that makes no sense raises RequestError, which names the key.
"""

from alexnet_repro.config.commands import (
    AblationsConfig,
    BenchmarkConfig,
    ClaimsConfig,
    CompareConfig,
    ConvertConfig,
    EvaluateConfig,
    ExportConfig,
    Figure1Config,
    FiguresConfig,
    InputBenchmarkConfig,
    PredictConfig,
    SummaryConfig,
)
from alexnet_repro.config.model import (
    LAYERS,
    POOLS,
    ConvConfig,
    DenseConfig,
    ModelConfig,
    NormConfig,
    PoolConfig,
)
from alexnet_repro.config.training import (
    AugmentConfig,
    ChangeConfig,
    DataConfig,
    OptimConfig,
    RunConfig,
    RuntimeConfig,
    ScheduleConfig,
    TrainConfig,
)
