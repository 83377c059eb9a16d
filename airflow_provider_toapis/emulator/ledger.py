"""The account's ledger, with the charges, the refunds and the remaining balance."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from airflow_provider_toapis.emulator.error_bodies import low_quota
from airflow_provider_toapis.emulator.store import Store, Task

CREDITS_PER_USD = 200


class Ledger:
    """Computes the balance from the generation tasks. Each task was charged once, when it was created.

    :param start: Balance in US dollars before the first generation task.
    """

    def __init__(self, store: Store, start: Decimal) -> None:
        self._store = store
        self._start = start
        charged = store.tasks("billing != 'refunded'")
        self._spent = sum((Decimal(task.cost_usd) for task in charged), Decimal())

    def charge(self, model: str, deposit: Decimal) -> None:
        """Charge the cost of a new generation task in advance, as a ``deposit`` in US dollars.

        :raises RejectedError: The balance is too low.
        """
        remaining = self._start - self._spent
        if remaining < deposit:
            raise low_quota(model, remaining, deposit)
        self._spent += deposit

    def refund(self, task: Task) -> None:
        """Refund the deposit of a failed generation task."""
        self._spent -= Decimal(task.cost_usd)

    def reset(self) -> None:
        """Restore the initial balance. Called after all generation tasks were deleted."""
        self._spent = Decimal()

    def balance(self) -> dict[str, Any]:
        """Return the response of the balance endpoints."""
        remaining = self._start - self._spent
        return {
            "success": True,
            "remain_balance": float(remaining),
            "used_balance": float(self._spent),
            "remain_credits": float(remaining * CREDITS_PER_USD),
            "used_credits": float(self._spent * CREDITS_PER_USD),
            "credits_per_usd": CREDITS_PER_USD,
            "unlimited_quota": False,
        }

    def statement(self) -> dict[str, Any]:
        """Return every charge. ``count`` and ``total_usd`` exclude refunded charges; ``posted`` counts all charges."""
        tasks = self._store.tasks()
        charged = [task for task in tasks if task.billing != "refunded"]
        return {
            "billed": [_line(task) for task in tasks],
            "count": len(charged),
            "total_usd": str(sum((Decimal(task.cost_usd) for task in charged), Decimal())),
            "posted": len(tasks),
        }


def billing(task: Task) -> dict[str, str]:
    """Return the ``billing`` object of a generation task. It contains amounts once the billing is not pending."""
    if task.billing == "pending":
        return {"status": "pending"}
    amount = Decimal(task.cost_usd) if task.billing == "settled" else Decimal()
    return {"status": task.billing, "credits": f"{amount * CREDITS_PER_USD:f}", "cost_usd": f"{amount:f}"}


def _line(task: Task) -> dict[str, Any]:
    return {
        "id": task.id,
        "client_business_id": task.client_business_id,
        "model": task.model,
        "operation": task.operation,
        "cost_usd": task.cost_usd,
        "status": task.billing,
        "callback_url": task.callback_url,
        "created_at": datetime.fromtimestamp(task.created_at, UTC).isoformat(),
    }
