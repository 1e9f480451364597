"""Every Prometheus series, declared once. One Metrics per app, on its own registry, so that apps don't share counts."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Info, ProcessCollector, generate_latest

_RATIOS = (0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0)
_LONG = (*_RATIOS, 16.0, 32.0, 64.0)  # a picture has many windows; a machine may be slower than that of the manifest
_REFUSALS = ("overload", "deadline", "bodies", "draining")


class Metrics:
    """The service's series. Latency buckets lie around `budget_s`, the budget of one window in seconds."""

    def __init__(self, budget_s: float) -> None:
        long = tuple(budget_s * ratio for ratio in _LONG)
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, processor time, open files
        self.requests = Counter("flawscribe_requests", "Requests answered", ["endpoint", "code"], registry=registry)
        self.images = Counter("flawscribe_images", "Pictures judged", ["model", "verdict"], registry=registry)
        self.stage_seconds = Histogram(
            "flawscribe_stage_seconds", "Time of one stage of one picture", ["stage"], buckets=long, registry=registry
        )
        self.image_seconds = Histogram(
            "flawscribe_image_seconds", "Decode to verdict of one picture", ["model"], buckets=long, registry=registry
        )
        self.network_seconds = Histogram(
            "flawscribe_network_seconds_per_window",
            "Network time of a batch over its windows",
            ["model"],
            buckets=long,
            registry=registry,
        )
        self.budget_seconds = Gauge(
            "flawscribe_budget_seconds", "Latency budget of one window", ["model"], registry=registry
        )
        self.budget_exceeded = Counter(
            "flawscribe_budget_exceeded", "Pictures slower than budget x windows", ["model"], registry=registry
        )
        self.budget_share = Histogram(
            "flawscribe_image_budget_share",
            "Time of one picture over its budget: budget x windows",
            ["model"],
            buckets=_RATIOS,
            registry=registry,
        )
        self.batch_images = Histogram(
            "flawscribe_batch_images", "Pictures in a batch", buckets=(1, 2, 4, 8, 16, 32, 64), registry=registry
        )
        self.queue_images = Gauge("flawscribe_queue_images", "Pictures admitted and not yet judged", registry=registry)
        self.rejected = Counter("flawscribe_rejected", "Requests turned away", ["reason"], registry=registry)
        for reason in _REFUSALS:  # there from the start, so that the first one shows as a rise
            self.rejected.labels(reason)
        self.anomaly_score = Histogram(
            "flawscribe_anomaly_score",
            "Anomaly score over the reject threshold",
            ["model"],
            buckets=(-1.0, 0.0, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 4.0, 8.0),
            registry=registry,
        )
        self.llm_seconds = Histogram(
            "flawscribe_llm_seconds",
            "Time of one task of the LLM",
            buckets=(0.1, 0.25, 0.5, 1, 2, 3, 5, 8, 12, 20, 30),
            registry=registry,
        )
        self.llm_requests = Counter("flawscribe_llm_requests", "Tasks of the LLM", ["outcome"], registry=registry)
        self.llm_tokens = Counter("flawscribe_llm_tokens", "Tokens of the LLM", ["direction"], registry=registry)
        self.llm_cost = Counter("flawscribe_llm_cost", "Cost of the LLM in the prices' currency", registry=registry)
        self.event_streams = Gauge("flawscribe_event_streams", "Clients that listen to /events", registry=registry)
        self.event_streams_dropped = Counter(
            "flawscribe_event_streams_dropped", "Clients of /events that did not keep up", registry=registry
        )
        self.llm_breaker_open = Gauge(
            "flawscribe_llm_breaker_open",
            "Whether the LLM is left alone after failures, until a call succeeds",
            registry=registry,
        )
        self.records_failed = Counter(
            "flawscribe_records_failed", "Inspections that could not be recorded", registry=registry
        )
        self.drift_state = Gauge(
            "flawscribe_drift_state",
            "Accepted parts' p-values of the last day against calibration: 0 too few, 1 steady, 2 shifting, 3 drifted",
            ["model"],
            registry=registry,
        )
        self.drift_psi = Gauge("flawscribe_drift_psi", "Their population stability index", ["model"], registry=registry)
        self.captions = Counter("flawscribe_captions", "Flaws put into words", ["source"], registry=registry)
        self.shadow_images = Counter(
            "flawscribe_shadow_images",
            "Pictures offered to a version in shadow: compared, disagreed, dropped or failed",
            ["model", "outcome"],
            registry=registry,
        )
        self.check_passed = Gauge(
            "flawscribe_check_passed", "Whether all master parts got their verdicts", ["model"], registry=registry
        )
        self.check_time = Gauge(
            "flawscribe_check_timestamp_seconds",
            "When master parts were last checked, or added where they never were",
            ["model"],
            registry=registry,
        )
        self.training_running = Gauge("flawscribe_training_running", "Whether a training runs", registry=registry)
        self.training_failed = Gauge(
            "flawscribe_training_failed", "Whether the newest training failed or was interrupted", registry=registry
        )
        self.ready = Gauge("flawscribe_ready", "Whether requests are taken, as /readyz says", registry=registry)
        self.models_bytes = Gauge("flawscribe_models_bytes", "Memory of the loaded models, about", registry=registry)
        self.loop_lag = Histogram(
            "flawscribe_event_loop_lag_seconds",
            "How late the event loop was for a timer",
            buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0),
            registry=registry,
        )
        self.model_info = Info("flawscribe_model", "Model in service", ["model"], registry=registry)

    def exposition(self) -> bytes:
        """All series in the Prometheus text format."""
        return generate_latest(self.registry)
