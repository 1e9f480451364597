"""All configuration, read from FLAWSCRIBE_* environment variables. The only reader of the environment."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, SettingsConfigDict

from service.errors import SettingsError

PREFIX = "FLAWSCRIBE_"
_SECRET = ("llm_api_key", "database_url", "llm_base_url")


class Settings(BaseSettings):
    """Settings of the service; each is the environment variable of its name in capitals behind FLAWSCRIBE_."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True, extra="forbid", protected_namespaces=())

    host: str = Field("127.0.0.1", description="Address to listen on. Other than loopback needs API keys or INSECURE.")
    port: int = Field(8000, ge=0, le=65535, description="Port to listen on; 0 takes a free one.")
    models_dir: Path = Field(Path("models"), description="Folder of bundles, `<name>/<version>/`.")
    model: str | None = Field(
        None, description="Model that answers when a request names none; unset: the only one, or `polka-dot`."
    )
    model_memory_mb: float | None = Field(
        None, gt=0, description="Memory for loaded models, in MiB: the one unused longest makes room; unset: no limit."
    )
    pinned_models: str = Field(
        "", description="Models that never make room, comma-separated; the one that answers when none is named is one."
    )
    provider: Literal["auto", "cpu", "openvino", "cuda"] = Field(
        "auto",
        description="What runs the network: ONNX Runtime on `cpu` or `cuda`, or `openvino` (extra of that name). One that "
        "is not there is not ready; `auto` takes the fastest that is and that the bundle was calibrated for.",
    )
    precision: Literal["auto", "float32", "fp16", "int8", "int8-openvino", "bf16"] = Field(
        "auto",
        description="Form of the model; one that cannot run here is not ready; `auto`: the fastest that the bundle has for "
        "the provider and that meets its golden pictures.",
    )
    threads: int = Field(0, ge=0, description="Threads of the network on CPU; 0: as many as the cgroup allows.")
    gpu_memory_mb: float | None = Field(
        None,
        gt=0,
        description="GPU memory that a model may take, in MiB; unset: what it needs, as long as there is any.",
    )
    decode_threads: int = Field(0, ge=0, description="Threads that decode and prepare pictures; 0: one per core.")
    budget_ms: float | None = Field(
        None, gt=0, description="Latency budget per window; unset: 2 on CUDA, 1.25 x the network's own time on CPU."
    )
    queue_windows: int | None = Field(
        None,
        ge=1,
        description="Windows admitted at once; more are answered 429. Unset: 64, of them no more than are judged in half a "
        "second once 8 pictures wait.",
    )
    deadline_ms: int = Field(30_000, ge=1, description="Longest wait of a request that states no X-Deadline-Ms.")
    body_timeout_s: float = Field(30.0, gt=0, description="Longest time in which a request body must arrive.")
    drain_s: float = Field(20.0, ge=0, description="Time given to running requests after SIGTERM.")
    max_body_mb: float = Field(64.0, gt=0, description="Largest request body, in MiB.")
    bodies_mb: float = Field(512.0, gt=0, description="Request bodies held at once, in MiB; more are answered 429.")
    max_images: int = Field(32, ge=1, description="Largest number of pictures in one request.")
    max_megapixels: float = Field(64.0, gt=0, description="Largest picture in million pixels, checked before decoding.")
    keys_file: Path | None = Field(None, description="JSON file of hashed API keys (`flawscribe key`); unset: no keys.")
    insecure: bool = Field(False, description="Allow other than loopback without API keys.")
    store: Literal["off", "none", "record", "image"] = Field(
        "record",
        description=(
            "What is kept of an inspection unless the request says: nothing, its record, its picture too; "
            "`off`: nothing whatever it says, and there is no database."
        ),
    )
    records_dir: Path = Field(Path("records"), description="Folder of the embedded database and of stored pictures.")
    database_url: str | None = Field(
        None, description="PostgreSQL by URL (`postgresql+psycopg://…`); unset: SQLite in RECORDS_DIR."
    )
    keep_days: float | None = Field(None, gt=0, description="Age in days at which records are removed; unset: never.")
    keep_pictures_gb: float | None = Field(
        None, gt=0, description="Size of stored pictures above which the oldest are removed, in GiB; unset: never."
    )
    trainings_dir: Path = Field(
        Path("trainings"), description="Folder of trainings started over HTTP: uploads, checkpoints, logs."
    )
    training_data_dir: Path | None = Field(
        None, description="Folder below which a training may name server folders of pictures; unset: uploads only."
    )
    background_cores: int = Field(
        0, ge=0, description="Cores that a training or a shadow run may use; 0: half of them."
    )
    background_nice: int = Field(
        19,
        ge=0,
        le=19,
        description="Niceness of trainings and shadow runs; 19 takes only what nobody else wants, 0 shares evenly.",
    )
    training_upload_mb: float = Field(4096.0, gt=0, description="Largest zip of training pictures, in MiB.")
    products_dir: Path = Field(Path("deploy/products"), description="Folder of product cards, `<product>.yaml`.")
    llm_base_url: str | None = Field(
        None, description="OpenAI-compatible endpoint, such as `http://localhost:11434/v1`; unset: no LLM."
    )
    llm_model: str | None = Field(None, description="Model asked of the LLM endpoint.")
    llm_api_key: SecretStr = Field(SecretStr(""), description="Key of the LLM endpoint.")
    llm_deadline_s: float = Field(20.0, gt=0, description="Longest wait for the LLM, over all tries.")
    llm_concurrency: int = Field(4, ge=1, description="Requests to the LLM at once.")
    llm_daily_calls: int | None = Field(None, ge=0, description="Most calls of the LLM in a UTC day; unset: no limit.")
    llm_daily_tokens: int | None = Field(None, ge=0, description="Most tokens in a UTC day; unset: no limit.")
    llm_price_in: float | None = Field(None, ge=0, description="Price of a million tokens sent, for the cost metric.")
    llm_price_out: float | None = Field(None, ge=0, description="Price of a million tokens received.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe log line.")

    @model_validator(mode="after")
    def _guarded(self) -> Settings:
        if self.bodies_mb < self.max_body_mb:
            raise ValueError("FLAWSCRIBE_BODIES_MB must be at least FLAWSCRIBE_MAX_BODY_MB")
        if (self.llm_base_url is None) != (self.llm_model is None):
            raise ValueError("FLAWSCRIBE_LLM_BASE_URL and FLAWSCRIBE_LLM_MODEL belong together")
        if not (self.keys_file or self.insecure or is_loopback(self.host)):
            raise ValueError(
                f"refusing to listen on {self.host} without API keys: set FLAWSCRIBE_KEYS_FILE, "
                "or FLAWSCRIBE_INSECURE=1 (--insecure) if the network is trusted"
            )
        return self


def require_known() -> None:
    """Raises SettingsError naming the FLAWSCRIBE_* variables that are no settings."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.upper().startswith(PREFIX) and name.upper() not in known)
    if unknown:
        raise SettingsError(f"unknown setting {', '.join(unknown)}; known are: {', '.join(sorted(known))}")


def load_settings(**overrides: object) -> Settings:
    """Settings from the environment, then `overrides` that are not None. Raises SettingsError naming what is wrong."""
    require_known()
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})  # type: ignore[arg-type]
    except ValidationError as error:
        raise SettingsError("; ".join(map(_told, error.errors()))) from error


def _told(problem: ErrorDetails) -> str:
    """One setting's problem in words, with what was given unless it may hold a password."""
    words = problem["msg"].removeprefix("Value error, ")
    if not problem["loc"]:
        return words
    name = str(problem["loc"][0])
    given = "" if name in _SECRET else f", not {str(problem['input'])!r}"
    return f"{PREFIX}{name.upper()}: {words}{given}"


def environment(**settings: object) -> dict[str, str]:
    """This process's environment with other `settings`, for a service in a child process."""
    return dict(os.environ) | {PREFIX + name.upper(): str(value) for name, value in settings.items()}


def is_loopback(host: str) -> bool:
    """Whether `host` can only be reached from this machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
