"""What the injector did, for Prometheus: on /metrics of the port that the API server calls.

Counts only: no pod's name, no namespace, so whoever reaches the port learns nothing of who runs what, and
the number of time series is fixed.
"""

from __future__ import annotations

import importlib.metadata
from typing import Final, Literal

from cryptography import x509
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import choose_encoder

# injected: the pod got the sidecar. refused: it asked, and stays without, with a warning. unchanged: it has it
# already or said no. failed: a fault of ours; the pod was let in as it was. bad: no AdmissionReview.
Outcome = Literal["injected", "refused", "unchanged", "failed", "bad"]
OUTCOMES: Final[tuple[Outcome, ...]] = ("injected", "refused", "unchanged", "failed", "bad")
# A decision takes a millisecond; the API server gives up after timeoutSeconds (5).
BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)

# A second series for each counter that tells when it began; Prometheus reads none of them from text.
disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """One of them for each server; tests have several in a process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        Info("evenstream_injector_build", "The build that runs.", registry=self._registry).info(
            {"version": importlib.metadata.version("evenstream")}
        )
        self._admissions = Counter(
            "evenstream_injector_admissions",
            "AdmissionReviews answered, by what became of the pod.",
            ["outcome"],
            registry=self._registry,
        )
        for outcome in OUTCOMES:  # there from the start, so that a first failure is a rise and no new series
            self._admissions.labels(outcome)
        self._seconds = Histogram(
            "evenstream_injector_admission_duration_seconds",
            "From a review's last byte to its answer.",
            buckets=BUCKETS,
            registry=self._registry,
        )
        self._certificate = Gauge(
            "evenstream_injector_certificate_expiry_timestamp_seconds",
            "When the serving certificate in use expires, since unix epoch.",
            registry=self._registry,
        )
        self._ca = Gauge(
            "evenstream_injector_ca_expiry_timestamp_seconds",
            "When the CA that signed it expires, since unix epoch.",
            registry=self._registry,
        )
        self._refreshes = Counter(
            "evenstream_injector_refreshes",
            "Looks at the Secret and the webhook configuration, by result.",
            ["result"],
            registry=self._registry,
        )
        for result in ("ok", "failed"):
            self._refreshes.labels(result)

    def answered(self, outcome: Outcome, seconds: float) -> None:
        self._admissions.labels(outcome).inc()
        self._seconds.observe(seconds)

    def refreshed(self, *, ok: bool) -> None:
        self._refreshes.labels("ok" if ok else "failed").inc()

    def loaded(self, certificate: bytes, ca_certificates: bytes) -> None:
        """These PEM are in use from now on."""
        for gauge, pem in ((self._certificate, certificate), (self._ca, ca_certificates)):
            gauge.set(x509.load_pem_x509_certificate(pem).not_valid_after_utc.timestamp())

    def render(self, accept: str) -> tuple[str, bytes]:
        """(content type, body): OpenMetrics for those who ask for it."""
        encoder, content_type = choose_encoder(accept)
        return content_type, encoder(self._registry)
