"""Sensor that waits for a video that another task submitted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, NoReturn

from airflow.providers.common.compat.sdk import (
    AirflowFailException,
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_toapis import metrics
from airflow_provider_toapis.api.clock import backoff, clock
from airflow_provider_toapis.api.defaults import WAIT_TIMEOUT
from airflow_provider_toapis.api.download import video_result
from airflow_provider_toapis.api.error_responses import failure_message, missing_url_message, timeout_message
from airflow_provider_toapis.api.flows import video_path
from airflow_provider_toapis.api.poll_schedule import Schedule
from airflow_provider_toapis.api.polling import (
    Decision,
    KeepWaiting,
    VideoWait,
    WaitResult,
    WaitStatus,
    wait_outcome,
)
from airflow_provider_toapis.api.settings import require_seconds
from airflow_provider_toapis.exceptions import (
    ToAPIsError,
    ToAPIsFinalFailureError,
    ToAPIsNotFoundError,
    ToAPIsWaitInterruptedError,
    unknown_video,
)
from airflow_provider_toapis.hooks.toapis import ToAPIsHook
from airflow_provider_toapis.mapped_values import AuthorTemplatesOperator
from airflow_provider_toapis.triggers.deferral import defer_until_final
from airflow_provider_toapis.triggers.events import WaitEvent
from airflow_provider_toapis.version_compat import deferral_timed_out

if TYPE_CHECKING:
    from typing import Unpack

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_toapis.api.responses import VideoTask
    from airflow_provider_toapis.base_arguments import BaseSensorArguments

__all__ = ["ToAPIsVideoSensor"]

#: XCom key of the video's id in the service, which is pushed before the sensor defers.
VIDEO_ID_KEY = "video_id"

#: Maximum number of repeated look-ups of a video that the service does not find. Together they take 30 seconds. All of
#: them happen within one poke, because a rescheduled sensor has no state that lasts until the next poke.
MAX_REPEATS = 5


class ToAPIsVideoSensor(AuthorTemplatesOperator, BaseSensorOperator):
    """Wait until a video is ready; return the same dict as the operators, with fields such as ``id`` and ``url``.

    The sensor polls once in the worker before it defers. If a poll fails, the sensor keeps waiting. If the video
    failed, the task fails without a retry. Waiting costs nothing.

    :param video_id: The video's id, or its client_business_id. (templated)
    :param deferrable: Wait in the triggerer, without a worker slot. Default: ``[operators] default_deferrable``.
    :param poke_interval: Seconds between two polls (default 30). In the triggerer, values below 5 are raised to 5.
    :param timeout: Seconds after which the wait ends with Airflow's sensor timeout, in every mode (default 1800).
    :param webhook: If True, the triggerer polls only rarely. Set it if a task of the same run submitted the video with
        a webhook (default False). The webhook resumes the deferred sensor in either case. See ``docs/webhooks.md``.
    :param toapis_conn_id: Airflow connection (default ``toapis_default``). (templated)
    :raises ToAPIsFinalFailureError: The video failed.
    :raises ToAPIsRequestError: The service does not find this id.
    :raises AirflowSensorTimeout: The video was not ready before the timeout. It is still rendering.
    """

    template_fields: Sequence[str] = ("video_id", "toapis_conn_id")

    def __init__(
        self,
        *,
        video_id: str,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        poke_interval: timedelta | float = 30.0,
        timeout: timedelta | float = WAIT_TIMEOUT,
        webhook: bool = False,
        toapis_conn_id: str = "toapis_default",
        **kwargs: Unpack[BaseSensorArguments],
    ) -> None:
        require_seconds("poke_interval", _seconds(poke_interval))
        require_seconds("timeout", _seconds(timeout))
        super().__init__(poke_interval=poke_interval, timeout=timeout, **kwargs)
        self.video_id = video_id
        self.deferrable = deferrable
        self.webhook = webhook
        self.toapis_conn_id = toapis_conn_id
        self._watched_id: str | None = None

    def execute(self, context: Context) -> Any:  # noqa: ANN401
        """Poll once, then defer. If ``deferrable`` is False, poke repeatedly, as other sensors do."""
        with self._soft_failing():
            # Invalid settings and ids raise an error here. During the wait, such an error would be treated as a failed
            # poll, which is retried.
            self._hook.settings()
            video_path(self.video_id)
        if not self.deferrable:
            return super().execute(context)
        with self._soft_failing():
            found = self.poke(context)
        if isinstance(found, PokeReturnValue):
            return found.xcom_value
        interval = self._hook.fallback_interval(self.poke_interval) if self.webhook else None
        return self._defer(context, self._watched_id, clock.time() + self.timeout, interval)

    def poke(self, context: Context) -> bool | PokeReturnValue:  # noqa: ARG002
        """Poll once. Return the video as the XCom value if it is ready, else False.

        :raises ToAPIsWaitInterruptedError: The service rejects the poll. A retry polls again.
        """
        decision = self._poll_until_found()
        if isinstance(decision, KeepWaiting) and decision.fresh_connection:
            decision = self._poll_until_found()
        if isinstance(decision, WaitResult):
            raise ToAPIsWaitInterruptedError(f"{decision.message} A retry polls again.", video_id=self.video_id)
        return decision if isinstance(decision, PokeReturnValue) else False

    def _poll_until_found(self) -> Decision | PokeReturnValue:
        """Poll. If the service does not find the video, poll again, because the service can miss an existing video."""
        for attempt in range(MAX_REPEATS):
            try:
                return self._poll()
            except ToAPIsNotFoundError:
                clock.sleep(backoff(attempt))
        try:
            return self._poll()
        except ToAPIsNotFoundError as error:
            raise unknown_video(self.video_id) from error

    def _poll(self) -> Decision | PokeReturnValue:
        metrics.video_polled(self.toapis_conn_id)
        try:
            task = self._hook.get_video(self.video_id, retry_timeout=0)
        except ToAPIsNotFoundError:
            raise
        except ToAPIsError as error:
            return self._wait.on_error(error, clock.time())
        # From now on, wait for the id, because a webhook contains only the id and not the client_business_id.
        self._watched_id = task.id
        decision = self._wait.on_task(task, clock.time())
        if isinstance(decision, WaitResult):
            return PokeReturnValue(is_done=True, xcom_value=self._result(task, decision.status))
        return decision

    def execute_complete(self, context: Context, event: dict[str, Any]) -> dict[str, Any]:
        """Look the video up and return it, or wait again if it is not final. The event is advisory."""
        ended = WaitEvent.parse(event)
        ended.log_error()
        end_time = clock.time() + self.timeout if ended.end_time is None else ended.end_time
        ti = context["ti"]
        own_id: str | None = ti.xcom_pull(task_ids=self.task_id, key=VIDEO_ID_KEY, map_indexes=ti.map_index)
        video_id = own_id or ended.video_id
        task = self._hook.get_billed_video(video_id, end_time=end_time, is_id=own_id is not None)
        status = wait_outcome(task, ended.status, end_time, clock.time())
        if status is None:
            self._defer(context, task.id, end_time, event_status=ended.status)
        return self._result(task, status)

    def resume_execution(self, next_method: str, next_kwargs: dict[str, Any] | None, context: Context) -> Any:  # noqa: ANN401
        """Resume the sensor.

        If the deferral timed out, return the video if it is ready. Otherwise, raise ``AirflowSensorTimeout``, so that
        the error does not depend on the version of Airflow.
        """
        if not deferral_timed_out(next_method, next_kwargs):
            return super().resume_execution(next_method, next_kwargs, context)
        with self._soft_failing():
            timed_out = WaitEvent("timeout", self.video_id, clock.time(), "")
            return self.execute_complete(context, timed_out.payload())

    def _defer(
        self,
        context: Context,
        own_id: str | None,
        end_time: float,
        fallback_interval: float | None = None,
        *,
        event_status: WaitStatus = "success",
    ) -> NoReturn:
        """Defer the sensor to the triggerer.

        :param own_id: The video's id in the service, stored for the look-up after the wait; None before the first
            response.
        """
        if own_id is not None:
            context["ti"].xcom_push(key=VIDEO_ID_KEY, value=own_id)
        defer_until_final(
            self,
            own_id or self.video_id,
            toapis_conn_id=self.toapis_conn_id,
            poll_interval=self.poke_interval,
            end_time=end_time,
            fallback_interval=fallback_interval,
            event_status=event_status,
        )

    def _result(self, task: VideoTask, status: WaitStatus | None) -> dict[str, Any]:
        if task.is_final:
            metrics.video_finished(task)
        if status == "success":
            return video_result(task, task.client_business_id)
        if status == "failed":
            raise ToAPIsFinalFailureError(f"{failure_message(task)} Polling again would not change this.", task=task)
        if status == "timeout":
            raise AirflowSensorTimeout(timeout_message(task.id, self.timeout, last_status=task.raw_status))
        raise ToAPIsWaitInterruptedError(f"{missing_url_message(task.id)} A retry polls again.", video_id=task.id)

    @contextmanager
    def _soft_failing(self) -> Iterator[None]:
        try:
            yield
        except (AirflowFailException, AirflowSensorTimeout) as error:
            if self.soft_fail or self.never_fail:
                raise AirflowSkipException(f"Skipped instead of failed: {error}") from error
            raise

    @property
    def _hook(self) -> ToAPIsHook:
        return ToAPIsHook(self.toapis_conn_id)

    @cached_property
    def _wait(self) -> VideoWait:
        # No deadline is set here, because the sensor's own timeout ends the wait in every mode.
        return VideoWait(self.video_id, Schedule(self.poke_interval), end_time=None)


def _seconds(value: timedelta | float) -> float:
    return value.total_seconds() if isinstance(value, timedelta) else value
