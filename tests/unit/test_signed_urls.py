"""Signed URLs: the part that identifies the file, and the signature."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis import redaction
from airflow_provider_toapis.redaction import secrets_of, without_signature, without_signatures

BASE = "https://host.example/images/red%20shoe.jpg"
LONG = "0123456789abcdef0123456789abcdef"

#: Two signatures of one file on different days, for each known family.
SIGNATURES = {
    "Amazon": (
        (
            f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA%2F20261001&X-Amz-Date=20261001T000000Z"
            f"&X-Amz-Expires=900&X-Amz-SignedHeaders=host&X-Amz-Signature={LONG}"
        ),
        (
            f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=ASIA%2F20261002&X-Amz-Date=20261002T000000Z"
            f"&X-Amz-Expires=60&X-Amz-Security-Token={LONG}2&X-Amz-SignedHeaders=host&X-Amz-Signature={LONG}3"
        ),
    ),
    "Amazon version 2": (
        f"AWSAccessKeyId=AKIA1&Signature={LONG}&Expires=1790000000",
        f"AWSAccessKeyId=ASIA2&Signature={LONG}2&x-amz-security-token={LONG}3&Expires=1790009999",
    ),
    "Google version 2": (
        f"Expires=1790000000&GoogleAccessId=a%40project.example&Signature={LONG}",
        f"Expires=1790009999&GoogleAccessId=b%40project.example&Signature={LONG}2",
    ),
    "Google": (
        f"X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=a&X-Goog-Date=1&X-Goog-Expires=2&X-Goog-Signature={LONG}",
        f"X-Goog-Algorithm=GOOG4-RSA-SHA256&X-Goog-Credential=b&X-Goog-Date=3&X-Goog-Expires=4&X-Goog-Signature={LONG}2",
    ),
    "Azure": (
        f"sv=2024-11-04&st=2026-10-01&se=2026-10-02&sr=b&sp=r&spr=https&sig={LONG}%3D",
        f"sv=2025-01-05&se=2026-10-09&sr=b&sp=rl&sip=1.2.3.4&skoid=a&sktid=b&skt=c&ske=d&sks=b&skv=e&sig={LONG}2%3D",
    ),
    "CloudFront": (
        f"Expires=1790000000&Signature={LONG}&Key-Pair-Id=K1",
        f"Policy=eyJTdGF0&Signature={LONG}2&Key-Pair-Id=K2&Hash-Algorithm=SHA256",
    ),
    "OSS": (
        f"OSSAccessKeyId=LTAI1&Expires=1790000000&Signature={LONG}",
        f"OSSAccessKeyId=LTAI2&Expires=1790009999&Signature={LONG}2&security-token={LONG}3",
    ),
    "OSS version 4": (
        f"x-oss-signature-version=OSS4-HMAC-SHA256&x-oss-credential=a&x-oss-date=1&x-oss-expires=2&x-oss-signature={LONG}",
        (
            f"x-oss-signature-version=OSS4-HMAC-SHA256&x-oss-credential=b&x-oss-date=3&x-oss-expires=4"
            f"&x-oss-security-token={LONG}2&x-oss-additional-headers=host&x-oss-signature={LONG}3"
        ),
    ),
    "COS": (
        (
            f"q-sign-algorithm=sha1&q-ak=AKID1&q-sign-time=1;2&q-key-time=1;2&q-header-list=host&q-url-param-list="
            f"&q-signature={LONG}"
        ),
        (
            f"q-sign-algorithm=sha1&q-ak=AKID2&q-sign-time=3;4&q-key-time=3;4&q-header-list=&q-url-param-list="
            f"&q-signature={LONG}2&x-cos-security-token={LONG}3"
        ),
    ),
    "TOS": (
        (
            f"X-Tos-Algorithm=TOS4-HMAC-SHA256&X-Tos-Credential=a&X-Tos-Date=1&X-Tos-Expires=2"
            f"&X-Tos-SignedHeaders=host&X-Tos-Signature={LONG}"
        ),
        (
            f"X-Tos-Algorithm=TOS4-HMAC-SHA256&X-Tos-Credential=b&X-Tos-Date=3&X-Tos-Expires=4"
            f"&X-Tos-SignedHeaders=host&X-Tos-Security-Token={LONG}2&X-Tos-Signature={LONG}3"
        ),
    ),
    "OBS": (
        f"AccessKeyId=HUA1&Expires=1790000000&Signature={LONG}",
        f"AccessKeyId=HUA2&Expires=1790009999&Signature={LONG}2&x-obs-security-token={LONG}3",
    ),
    "Qiniu": (f"e=1790000000&token={LONG}:{LONG}%3D", f"e=1790009999&token={LONG}:{LONG}2%3D"),
    "Cloudflare Images": (f"exp=1790000000&sig={LONG}", f"exp=1790009999&sig={LONG}2"),
    "Cloudflare": (f"verify=1790000000-{LONG}%3D", f"verify=1790009999-{LONG}2%3D"),
    "Bunny": (
        f"token={LONG}&expires=1790000000",
        f"token={LONG}2&token_path=%2Fimages%2F&token_countries=DE&expires=1790009999",
    ),
}
FAMILIES = pytest.mark.parametrize(("one_day", "another_day"), SIGNATURES.values(), ids=SIGNATURES.keys())
#: Parameters of signed URLs that change the returned file.
MEANINGFUL = ["versionId=7", "response-content-type=image/png", "x-oss-process=image/resize,w_100", "v=2", "id="]
MEANINGFUL += ["generation=17", "x-tos-process=image/resize,w_100", "imageMogr2/auto-orient=", "width=300"]
SUPABASE = "https://project.example/storage/v1/object/sign/images/shoe.jpg"


@pytest.fixture(autouse=True)
def fresh_warnings() -> Iterator[None]:
    """Clear the cache of logged warnings."""
    redaction._warn_about_parameter.cache_clear()
    yield
    redaction._warn_about_parameter.cache_clear()


class TestIdentity:
    @FAMILIES
    def test_same_file_signed_again_has_the_same_identity(self, one_day: str, another_day: str) -> None:
        assert without_signature(f"{BASE}?{one_day}") == without_signature(f"{BASE}?{another_day}") == BASE

    @FAMILIES
    @pytest.mark.parametrize("meaningful", MEANINGFUL)
    def test_parameters_outside_the_signature_are_part_of_the_identity(
        self, one_day: str, another_day: str, meaningful: str
    ) -> None:
        before = without_signature(f"{BASE}?{meaningful}&{one_day}")
        after = without_signature(f"{BASE}?{another_day}&{meaningful}")
        assert before == after != BASE
        name, _, value = meaningful.partition("=")
        assert parse_qsl(urlsplit(before).query, keep_blank_values=True) == [(name, value)]

    @FAMILIES
    def test_parameter_names_are_case_insensitive(self, one_day: str, another_day: str) -> None:
        upper = "&".join(f"{name.upper()}={value}" for name, _, value in map(split_parameter, one_day.split("&")))
        assert without_signature(f"{BASE}?{upper}") == BASE

    @FAMILIES
    def test_other_file_has_another_identity(self, one_day: str, another_day: str) -> None:
        assert without_signature(f"{BASE}?{one_day}") != without_signature(f"{BASE}2?{one_day}")

    @FAMILIES
    def test_fragment_is_kept(self, one_day: str, another_day: str) -> None:
        assert without_signature(f"{BASE}?{one_day}#page2") == f"{BASE}#page2"

    @pytest.mark.parametrize(
        "incomplete",
        [
            f"X-Amz-Signature={LONG}",
            f"X-Amz-Signature={LONG}&X-Amz-Credential=a",
            "X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=a&X-Amz-Date=1&X-Amz-Expires=900",
            f"X-Goog-Signature={LONG}",
            f"sig={LONG}",
            "sv=2024-11-04&se=2026-10-02&sr=b&sp=r",
            "Expires=1790000000",
            f"Signature={LONG}",
            f"Expires=1790000000&Signature={LONG}",
            "Expires=1790000000&Key-Pair-Id=K1",
            f"OSSAccessKeyId=LTAI1&Signature={LONG}",
            "OSSAccessKeyId=LTAI1&Expires=1790000000",
            f"x-oss-signature={LONG}",
            f"token={LONG}",
            f"AWSAccessKeyId=a&Signature={LONG}",
            "GoogleAccessId=a&Expires=1790000000",
            f"e=1790000000&token={LONG}",
            f"e=summer&token={LONG}:{LONG}",
            "e=1790000000",
            f"token={LONG}&expires=never",
            "token=red&expires=1790000000",
            f"exp=12&sig={LONG}",
            f"verify={LONG}",
            "verify=1",
            f"q-ak=a&q-signature={LONG}",
            f"X-Tos-Signature={LONG}",
        ],
    )
    def test_incomplete_or_unknown_signature_is_part_of_the_identity(self, incomplete: str) -> None:
        assert without_signature(f"{BASE}?{incomplete}") == f"{BASE}?{incomplete}"

    @pytest.mark.parametrize(
        "url",
        [BASE, f"{BASE}?", f"{BASE}?b=2&a=1&b=3", f"{BASE}?a=%20b+c", f"{BASE}?a", "no url", "https://[::1/a.jpg"],
    )
    def test_url_without_signature_is_unchanged(self, url: str) -> None:
        assert without_signature(url) == url

    def test_supabase_token_is_not_part_of_the_identity(self) -> None:
        first = without_signature(f"{SUPABASE}?token=eyJhbGciOiJIUzI1NiJ9.{LONG}.{LONG}&width=300")
        again = without_signature(f"{SUPABASE}?width=300&token=eyJhbGciOiJIUzI1NiJ9.{LONG}2.{LONG}")
        assert first == again == f"{SUPABASE}?width=300"

    def test_lone_surrogate_next_to_a_signature_is_kept_for_the_checks(self) -> None:
        assert "%ED%A0%BD" in without_signature(f"{BASE}?{SIGNATURES['Amazon'][0]}&title=\ud83d")

    @given(st.dictionaries(st.from_regex(r"[a-z]{1,6}", fullmatch=True), st.text(max_size=5), max_size=4))
    def test_unknown_parameters_are_part_of_the_identity(self, parameters: dict[str, str]) -> None:
        signature = SIGNATURES["Amazon"][0]
        query = "".join(f"&{name}={value.encode().hex()}" for name, value in parameters.items())
        assert without_signature(f"{BASE}?{signature}{query}").count("=") == len(parameters)


class TestSecrets:
    @FAMILIES
    def test_query_and_signature_are_secrets(self, one_day: str, another_day: str) -> None:
        secrets = secrets_of(f"{BASE}?{one_day}")
        assert one_day in secrets
        assert any(LONG in secret for secret in secrets[1:])

    @FAMILIES
    def test_secrets_have_at_least_20_characters(self, one_day: str, another_day: str) -> None:
        for query in (one_day, another_day):
            assert all(len(secret) >= 20 for secret in secrets_of(f"{BASE}?{query}"))

    @pytest.mark.parametrize("url", [BASE, f"{BASE}?v=2", f"{BASE}?sig={LONG}", f"https://[::1/?sv=1&sig={LONG}"])
    def test_ordinary_url_has_no_secrets(self, url: str) -> None:
        assert secrets_of(url) == ()


class TestUnknownSignatures:
    def test_unknown_signature_is_logged_once_per_process(self, caplog: pytest.LogCaptureFixture) -> None:
        for number in range(3):
            url = f"{BASE}?sign={LONG}{number}&t=1790000000"
            assert without_signature(url) == url
        (warning,) = caplog.records
        assert (warning.levelname, warning.args) == ("WARNING", ("sign",))
        assert LONG not in caplog.text

    @pytest.mark.parametrize(
        "name", ["signature", "Sig", "sign", "TOKEN", "hmac", "Policy", "X-Cdn-Signature", "auth_key", "verify"]
    )
    def test_each_signature_parameter_name_is_logged(self, name: str, caplog: pytest.LogCaptureFixture) -> None:
        without_signature(f"{BASE}?{name}={LONG}")
        assert [record.args for record in caplog.records] == [(name.lower(),)]

    @pytest.mark.parametrize(
        "query",
        [
            "sign=scorpio",
            "token=aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "policy=return-within-thirty-days",
            f"id={LONG}",
            f"design={LONG}",
            SIGNATURES["Amazon version 2"][0],
            SIGNATURES["Bunny"][0],
        ],
    )
    def test_other_parameters_and_known_signatures_are_not_logged(
        self, query: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        without_signature(f"{BASE}?{query}")
        assert caplog.records == []


class TestNestedUrls:
    def test_nested_urls_lose_their_signatures(self) -> None:
        signed = f"{BASE}?v=2&{SIGNATURES['Google version 2'][0]}"
        given = {"rows": [{"image": signed, "n": 1}, (signed, None)], "url": f"{BASE}?token={LONG}"}
        assert without_signatures(given) == {
            "rows": [{"image": f"{BASE}?v=2", "n": 1}, [f"{BASE}?v=2", None]],
            "url": f"{BASE}?token={LONG}",
        }


def split_parameter(parameter: str) -> tuple[str, str, str]:
    return parameter.partition("=")
