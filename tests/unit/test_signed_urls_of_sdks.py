"""URLs signed by the storage SDKs with their defaults: the same file signed again is the same image."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Callable
from typing import Any

import boto3  # type: ignore[import-untyped]
import pytest
from airflow.providers.amazon.aws.hooks.s3 import S3Hook
from airflow.providers.common.compat.sdk import redact
from botocore.config import Config  # type: ignore[import-untyped]
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from google.cloud import storage  # type: ignore[import-untyped]
from google.oauth2 import service_account

from airflow_provider_toapis.api.video_request import ReferenceImage, VideoRequest
from airflow_provider_toapis.assets import metadata_of
from airflow_provider_toapis.batch.feed import Row
from airflow_provider_toapis.batch.report import catalog_page
from airflow_provider_toapis.batch.row_request import Defaults, RowRequests
from airflow_provider_toapis.operators.video import ToAPIsSubmitVideoOperator
from airflow_provider_toapis.redaction import secrets_of, without_signature
from tests.airflow_task import FakeTaskInstance
from tests.catalog_entries import entry

#: Signs a URL for a number of seconds; another number gives another signature.
Sign = Callable[[int], str]
KEY = "images/red shoe.jpg"


def boto(seconds: int, *, region: str | None, token: str | None = None, **config: Any) -> str:
    client: Any = boto3.client(
        "s3",
        region_name=region,
        aws_access_key_id="AKIAEXAMPLEEXAMPLE00",
        aws_secret_access_key="a-secret-that-signs",
        aws_session_token=None if token is None else f"{token}-{seconds}",
        config=Config(**config),
    )
    url: str = client.generate_presigned_url(
        "get_object", Params={"Bucket": "shop", "Key": KEY, "VersionId": "7"}, ExpiresIn=seconds
    )
    return url


@pytest.fixture(scope="module")
def bucket() -> Any:
    """A bucket whose client signs with a generated key, without network."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    credentials = service_account.Credentials.from_service_account_info(  # type: ignore[no-untyped-call]
        {
            "client_email": "signer@project.example",
            "private_key": pem,
            "token_uri": "https://oauth2.example/token",
            "type": "service_account",
        }
    )
    return storage.Client(project="project", credentials=credentials).bucket("shop")


@pytest.fixture(
    params=[
        "boto3-us-east-1",
        "boto3-no-region",
        "boto3-v2-role",
        "boto3-v4",
        "boto3-v4-role",
        "s3hook",
        "google-default",
        "google-v2",
        "google-v4",
    ]
)
def sign(request: pytest.FixtureRequest, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> Sign:
    for name in ("AWS_DEFAULT_REGION", "AWS_REGION", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv(
        "AIRFLOW_CONN_AWS_DEFAULT",
        json.dumps({"conn_type": "aws", "login": "AKIAEXAMPLEEXAMPLE00", "password": "a-secret-that-signs"}),
    )
    blob = bucket.blob(KEY)

    def google(seconds: int, **options: Any) -> str:
        url: str = blob.generate_signed_url(expiration=dt.timedelta(seconds=seconds), generation=7, **options)
        return url

    def hook(seconds: int) -> str:
        parameters = {"Bucket": "shop", "Key": KEY, "VersionId": "7"}
        url: str | None = S3Hook().generate_presigned_url("get_object", parameters, expires_in=seconds)
        assert url is not None
        return url

    signers: dict[str, Sign] = {
        "boto3-us-east-1": lambda seconds: boto(seconds, region="us-east-1"),
        "boto3-no-region": lambda seconds: boto(seconds, region=None),
        "boto3-v2-role": lambda seconds: boto(seconds, region="us-east-1", token="a-token-of-a-role"),
        "boto3-v4": lambda seconds: boto(seconds, region="eu-central-1", signature_version="s3v4"),
        "boto3-v4-role": lambda seconds: boto(
            seconds, region="eu-central-1", token="a-token-of-a-role", signature_version="s3v4"
        ),
        "s3hook": hook,
        "google-default": google,
        "google-v2": lambda seconds: google(seconds, version="v2"),
        "google-v4": lambda seconds: google(seconds, version="v4"),
    }
    return signers[request.param]


def test_same_file_signed_again_is_the_same_video(sign: Sign) -> None:
    first, again = sign(900), sign(901)
    assert first != again
    requests = [
        VideoRequest("grok-video-1.5", "p", (ReferenceImage.from_url(url),), parameters={"image_urls": [url]})
        for url in (first, again)
    ]
    assert requests[0].fingerprint() == requests[1].fingerprint()


def test_file_version_is_part_of_the_identity(sign: Sign) -> None:
    assert without_signature(sign(900)).partition("?")[2] in ("versionId=7", "generation=7")


def test_row_with_a_newly_signed_url_is_unchanged_and_shows_no_signature(sign: Sign) -> None:
    checked = RowRequests(Defaults("grok-video-1.5"), None)
    first, again = (checked.check(Row(1, "shoe", prompt="p", image=sign(seconds))) for seconds in (900, 901))
    assert (first.fingerprint, first.images) == (again.fingerprint, again.images)
    row = entry("shoe", images=first.images)
    page = "".join(catalog_page([row], title="Shoes", made_at="2026-01-01T00:00:00Z"))
    event = json.dumps(metadata_of({"id": "video_1"}, image=sign(900)).as_dict())
    for shown in (page, event, json.dumps(row.as_dict())):
        assert KEY.rpartition("/")[2].replace(" ", "%20") in shown
        assert not secrets_shown(sign(900), shown)


def test_rendered_fields_show_no_signature(sign: Sign) -> None:
    url = sign(900)
    operator = ToAPIsSubmitVideoOperator(task_id="video", prompt="p", image="{{ url }}", parameters={"images": [url]})
    context: Any = {"url": url, "ti": FakeTaskInstance(), "task": operator}
    operator.render_template_fields(context)
    shown = json.dumps(redact([operator.image, operator.parameters]))
    assert "shop" in shown
    assert not secrets_shown(url, shown)


def secrets_shown(url: str, shown: str) -> list[str]:
    return [secret for secret in secrets_of(url) if secret in shown]


def test_signature_and_credentials_are_secrets(sign: Sign) -> None:
    url = sign(900)
    shown = without_signature(url)
    secrets = secrets_of(url)
    assert url.partition("?")[2] in secrets
    assert not [secret for secret in secrets if secret in shown]
    assert not [secret for secret in ("ignature", "AKIA", "signer", "token") if secret in shown]
