"""Arguments and result of one submission: the request with its idempotency keys, and the submitted video."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Self

from airflow_provider_toapis.api.defaults import RETRY_TIMEOUT
from airflow_provider_toapis.api.responses import VideoTask
from airflow_provider_toapis.api.video_request import _CHOSEN_ID, VideoRequest
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from airflow_provider_toapis.redaction import without_signature

if TYPE_CHECKING:
    from airflow_provider_toapis.api.responses import VideoTask
    from airflow_provider_toapis.api.video_request import VideoRequest


@dataclass(frozen=True)
class Callback:
    """Callback URL for the webhooks of a video.

    :param url: Public https URL of the webhook receiver. The service accepts no other URL (documented).
    :param required: Whether it is an error if the account has no webhooks. If False, the video is submitted without a
        webhook in that case.
    """

    url: str
    required: bool


@dataclass(frozen=True)
class Submission:
    """A video that was submitted or re-attached to.

    :param task: The video as the service last reported it.
    :param client_business_id: The idempotency key of its submission.
    :param generation: Number of the generation, from 0.
    :param reattached: Whether the video was submitted earlier. If so, nothing was billed now.
    :param webhook: Whether the submission has a callback URL (default False).
    :param request: The request of the video, with the model that makes it; None if only its key is known.
    :param earlier_revision: The revision of the video if it is one of ``SubmitSpec.earlier_keys``, else None.
    """

    task: VideoTask
    client_business_id: str
    generation: int
    reattached: bool
    webhook: bool = False
    request: VideoRequest | None = None
    earlier_revision: int | None = None


@dataclass(frozen=True)
class PriorSubmission:
    """What is known about earlier submissions of the same request.

    :param client_business_id: Idempotency key of the newest submission; None if a submission may exist but its key is
        not known.
    :param video_id: The id of its video; None if the response was lost.
    :param posted_at: Time of its POST in epoch seconds, by the service's clock; None if it is not known.
    :param failed: Number of earlier generations that are known to have failed (default 0). The other earlier
        generations expired.
    :param unknown_posts: Number of POSTs with an unknown outcome since the task was last cleared (default 0).
    :param found_by_key: Whether the service is known to find videos of the model by their client_business_id.
    :param is_newest: Whether all submissions are known, so that no later submission can exist (default True).
    :param is_current_revision: Whether the newest submission belongs to the current revision (default False). If so,
        its key is not one of the request's keys only if its model is not in ``fallback_models`` any more.
    """

    client_business_id: str | None = None
    video_id: str | None = None
    posted_at: float | None = None
    failed: int = 0
    unknown_posts: int = 0
    found_by_key: bool = False
    is_newest: bool = True
    is_current_revision: bool = False

    @property
    def is_known(self) -> bool:
        """Whether the outcome of every earlier submission is known."""
        is_recorded = self.client_business_id is not None or self.posted_at is not None
        return is_recorded and self.is_newest and not self.unknown_posts


def no_callback() -> None:
    """Return no callback URL, so that the video is only polled."""


@dataclass(frozen=True)
class IdempotencyKeys:
    """The idempotency key (``client_business_id``) of each generation of one request. All attempts use the same keys.

    :param parts: Values that are hashed, together with the generation, to derive a key. Empty if the author chose the
        key.
    :param chosen: The author's client_business_id. Generation 0 uses it as it is, generation ``n`` uses
        ``<chosen>-<n>``. No other video is allowed to use these keys.
    :param first_generation: Number that is added to each generation number that a caller passes (default 0).
    """

    parts: tuple[str, ...] = ()
    chosen: str = ""
    first_generation: int = 0

    @classmethod
    def derived(cls, fingerprint: str, identity: Iterable[str]) -> Self:
        """Return the keys of one task's video.

        :param fingerprint: Hash of the request; see :meth:`VideoRequest.fingerprint`.
        :param identity: Identity of the task instance (namespace, DAG, task, run, map index), without its try number.
        """
        return cls(parts=(*identity, fingerprint))

    @classmethod
    def from_author(cls, client_business_id: str) -> Self:
        """Return the keys for a client_business_id that the author chose.

        :param client_business_id: 1 to 60 characters of ``A-Za-z0-9_-``. It is not documented what the service accepts.
        :raises ToAPIsRequestError: The value has another format, or the prefix of one of the service's own ids.
        """
        if not isinstance(client_business_id, str) or not _CHOSEN_ID.fullmatch(client_business_id):
            raise ToAPIsRequestError.for_field(
                "client_business_id",
                client_business_id,
                "must be 1 to 60 characters of A-Z, a-z, 0-9, _ and -, and must not start with video_, task_, tsk_ or"
                " vid_, as the service's own ids do",
            )
        return cls(chosen=client_business_id)

    def for_generation(self, generation: int) -> str:
        """Return the key of a ``generation``, counted from ``first_generation``."""
        number = self.first_generation + generation
        if self.chosen:
            return f"{self.chosen}-{number}" if number else self.chosen
        # JSON separates the parts: ("a", "bc") differs from ("ab", "c").
        digest = hashlib.sha256(json.dumps([*self.parts, number]).encode()).hexdigest()
        return f"af-{digest[:40]}"


@dataclass(frozen=True)
class SubmitSpec:
    """The request for one video, its idempotency keys, and the rules for its submission.

    :param request: The request.
    :param keys: The idempotency key of each generation.
    :param max_generations: Limit of two separate counters (default 1). One counts the generations, including those that
        failed or expired. The other counts the POSTs with an unknown outcome. It is limited only while it is not known
        that the service finds videos of the model by their key.
    :param retry_timeout: Seconds for which a submission is retried after rate limits, which create nothing (default
        60).
    :param earlier: What is known about earlier submissions of the same request; None if no earlier submission is known
        (default). One look-up by key is not enough to prevent a second submission: it may not find a new video yet, and
        it may never find videos of some models. With ``earlier``, the recorded video id is looked up, or the look-up by
        key is repeated, before anything is submitted.
    :param callback: Returns the callback URL; called only before a POST. A callback URL in the request's parameters
        takes precedence. Default: no callback URL.
    :param key_includes_model: Whether the keys are derived from the request and thus from its model, not chosen by the
        author (default False). If True, a video that is found by its key is used, even if the service reports another
        model id. If False, that video can belong to another request. It is then rejected if its model is another one
        and ``earlier`` is None.
    :param verify_lookup: Whether to check that a new video is found by its key, and to warn if it is not (default
        True).
    :param free_replacements: Number of expired results that can be replaced beyond ``max_generations`` (default 0).
    :param label: Name of the video in log lines, such as the key of its row (default: none).
    :param fallbacks: Requests for other models, with their keys, in the order in which they are tried (default: none).
        One of them is submitted only if the service does not offer the models before it, and if it is certain that no
        video of this task exists.
    :param earlier_keys: By revision, the newest first, the keys of each model (default: none). If the key of the newest
        submission is not known, they are looked up once, and a video that is still in progress is used.
    """

    request: VideoRequest
    keys: IdempotencyKeys
    max_generations: int = 1
    retry_timeout: float = RETRY_TIMEOUT
    earlier: PriorSubmission | None = None
    callback: Callable[[], Callback | None] = no_callback
    key_includes_model: bool = False
    verify_lookup: bool = True
    free_replacements: int = 0
    label: str = ""
    fallbacks: Sequence[tuple[VideoRequest, IdempotencyKeys]] = ()
    earlier_keys: Mapping[int, Sequence[IdempotencyKeys]] = field(default_factory=dict)

    def candidates(self) -> list[SubmitSpec]:
        """Return this submission, and a submission for each fallback model."""
        return [self, *(replace(self, request=request, keys=keys) for request, keys in self.fallbacks)]


@dataclass(frozen=True)
class RequestIdentity:
    """Hashes that identify what a task instance requests.

    :param request: Hash of the author's client_business_id. Without one, hash of the request with the content of its
        images. Empty if the images cannot be read. All revisions of a request have the same hash.
    :param request_without_images: Hash of the request without its images.
    :param images: Hash of the references to its images, without signatures.
    """

    request: str
    request_without_images: str
    images: str

    @classmethod
    def of(
        cls,
        request: VideoRequest | None,
        without_images: VideoRequest,
        images: Iterable[str],
        *,
        chosen_key: str | None,
        scope: Sequence[object],
    ) -> Self:
        """Return the identity of a request.

        :param request: The request with its images; None if they cannot be read.
        :param chosen_key: The author's client_business_id. It alone identifies the video, whatever is requested.
        :param scope: Values that distinguish identical requests of one task instance.
        """
        if request is None:
            same_video: tuple[object, ...] = ()
        else:
            same_video = (chosen_key,) if chosen_key else (request.fingerprint(), *scope)
        return cls(
            _digest(*same_video) if same_video else "",
            _digest(without_images.fingerprint(), chosen_key, *scope),
            _digest(*map(without_signature, images)),
        )


def _digest(*values: object) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
