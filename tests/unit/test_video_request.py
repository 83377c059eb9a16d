"""Video requests: request body, validation, fingerprint and idempotency keys."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from decimal import Decimal
from io import BytesIO
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_toapis.api import video_request
from airflow_provider_toapis.api.result_urls import is_url
from airflow_provider_toapis.api.submit_spec import IdempotencyKeys
from airflow_provider_toapis.api.video_request import (
    FileUpload,
    ReferenceImage,
    VideoRequest,
    image_references,
    parse_duration,
)
from tests.errors import claims_nothing_was_billed, rejects

PREVIEW = "grok-video-1.5-preview"
URL = "https://example.com/shoe.jpg"


def signed(day: int, url: str = URL) -> str:
    return (
        f"{url}?X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=AKIA&X-Amz-Date=2026100{day}&X-Amz-Expires=900"
        f"&X-Amz-Signature={day}23456789abcdef0123456789"
    )


def uploaded(content_hash: str, name: str = "shoe.jpg") -> ReferenceImage:
    return ReferenceImage(f"sha256:{content_hash}", upload=FileUpload(name, "image/jpeg", BytesIO))


REQUEST = VideoRequest(
    model=PREVIEW, prompt="push in", images=(ReferenceImage.from_url(URL),), duration=10, aspect_ratio="1:1"
)
REMIX = VideoRequest(model="grok-video-1.0", prompt="at night", operation="remix", video_id="video_1")


class TestWireBody:
    def test_preview_model_gets_this_body(self) -> None:
        assert REQUEST.wire_body([URL]) == {
            "model": PREVIEW,
            "prompt": "push in",
            "images": [URL],
            "seconds": "10",
            "aspect_ratio": "1:1",
        }

    def test_successor_model_gets_this_body(self) -> None:
        assert replace(REQUEST, model="grok-video-1.5").wire_body([URL]) == {
            "model": "grok-video-1.5",
            "prompt": "push in",
            "image": URL,
            "video_generation_mode": "first_frame_image_to_video",
            "duration": 10,
            "aspect_ratio": "1:1",
        }

    def test_missing_arguments_are_not_sent(self) -> None:
        assert VideoRequest(model="grok-video-1.0", prompt="x").wire_body([]) == {
            "model": "grok-video-1.0",
            "prompt": "x",
        }

    def test_parameters_override_arguments_and_are_sent_unchanged(self) -> None:
        parameters = {"seconds": 12, "seed": None, "aspect_ratio": "21:9", "metadata": {"n": 2}}
        body = replace(REQUEST, parameters=parameters).wire_body([URL])
        assert {name: body[name] for name in parameters} == parameters

    def test_nested_parameters_are_merged_with_catalog_fields(self) -> None:
        request = VideoRequest(
            model="kling-v3-omni",
            prompt="x",
            images=(ReferenceImage.from_url(URL),),
            parameters={"metadata": {"negative_prompt": "blur"}},
        )
        metadata = request.wire_body([URL])["metadata"]
        assert metadata["negative_prompt"] == "blur"
        assert metadata["image_list"][0]["image_url"] == URL

    def test_images_in_parameters_are_accepted(self) -> None:
        request = VideoRequest(model=PREVIEW, prompt="x", parameters={"images": [URL]})
        request.check()
        assert request.wire_body([])["images"] == [URL]

    @pytest.mark.parametrize(
        ("request_", "path"),
        [
            (REQUEST, "/v1/videos/generations"),
            (REMIX, "/v1/videos/video_1/remix"),
            (replace(REMIX, operation="extend"), "/v1/videos/video_1/extend"),
            (replace(REMIX, video_id="../tokens?a=1#b"), "/v1/videos/..%2Ftokens%3Fa%3D1%23b/remix"),
        ],
        ids=str,
    )
    def test_request_path_names_the_operation(self, request_: VideoRequest, path: str) -> None:
        assert request_.path == path


class TestCheck:
    def test_valid_requests_are_accepted(self) -> None:
        REQUEST.check()
        REMIX.check()

    @pytest.mark.parametrize(
        ("changed", "field"),
        [
            ({"model": ""}, "model"),
            ({"model": " "}, "model"),
            ({"model": None}, "model"),
            ({"duration": 11}, "duration"),
            ({"aspect_ratio": "4:3"}, "aspect_ratio"),
            ({"images": ()}, "image"),
            ({"prompt": ""}, "prompt"),
            ({"operation": "remix", "video_id": None}, "video_id"),
            ({"operation": "extend", "video_id": " "}, "video_id"),
            ({"parameters": {"client_business_id": "x"}}, "parameters"),
        ],
        ids=str,
    )
    def test_invalid_value_is_rejected_by_name_before_submission(self, changed: dict[str, Any], field: str) -> None:
        with rejects(field) as rejected:
            replace(REQUEST, **changed).check()
        assert claims_nothing_was_billed(rejected.value)

    def test_prompt_of_another_type_is_not_quoted(self) -> None:
        prompt: Any = ["push in slowly"]
        with rejects("prompt", "list") as rejected:
            replace(REQUEST, prompt=prompt).check()
        assert "push in" not in str(rejected.value)

    def test_unknown_model_is_accepted_with_a_warning_and_suggestion(self, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            replace(REQUEST, model="grok-video-1.6", duration=77, aspect_ratio="5:4").check()
        (warning,) = caplog.records
        assert isinstance(warning.args, tuple)
        model, hint = warning.args
        assert model == "grok-video-1.6"
        assert "grok-video-1.5" in str(hint)

    def test_repr_shows_neither_prompt_nor_signed_url(self) -> None:
        shown = repr(replace(REQUEST, images=(ReferenceImage.from_url(signed(1)),)))
        assert "push in" not in shown
        assert "23456789abcdef" not in shown


class TestPrice:
    @pytest.mark.parametrize(
        ("request_", "price"),
        [
            (REQUEST, Decimal("0.10")),
            (replace(REQUEST, duration=15), Decimal("0.15")),
            (replace(REQUEST, duration=None), Decimal("0.10")),
            (replace(REQUEST, parameters={"seconds": "15"}), Decimal("0.15")),
            (replace(REQUEST, model="grok-video-1.5"), None),
            (replace(REQUEST, model="no-such-model"), None),
        ],
        ids=str,
    )
    def test_price_is_read_from_the_model_catalog(self, request_: VideoRequest, price: Decimal | None) -> None:
        assert request_.price_usd == price


class TestSeconds:
    @pytest.mark.parametrize(
        ("request_", "seconds"),
        [
            (REQUEST, 10),
            (replace(REQUEST, duration=None), 10),
            (replace(REQUEST, parameters={"seconds": 15}), 15),
            (replace(REQUEST, parameters={"duration": 5}), 10),
            (replace(REQUEST, parameters={"duration": "20"}), 20),
            (replace(REQUEST, parameters={"seconds": None}), None),
            (replace(REQUEST, parameters={"seconds": "long"}), None),
            (replace(REQUEST, model="no-such-model", duration=-1), None),
            (replace(REQUEST, model="no-such-model", duration=None), None),
            (VideoRequest(model="grok-video-1.0", operation="remix", video_id="video_1"), None),
            (VideoRequest(model="sora-2", operation="remix", video_id="video_1", duration=15), 15),
        ],
        ids=[
            "given",
            "default",
            "parameters",
            "unread",
            "dearer",
            "none",
            "text",
            "the model's",
            "?",
            "remix",
            "asked",
        ],
    )
    def test_seconds_are_those_of_the_generated_video(self, request_: VideoRequest, seconds: int | None) -> None:
        assert request_.seconds == seconds


class TestGenerationMode:
    SUCCESSOR = VideoRequest(model="grok-video-1.5", prompt="x")

    @pytest.mark.parametrize(
        ("parameters", "mode"),
        [
            ({}, "text_to_video"),
            ({"image": URL}, "first_frame_image_to_video"),
            ({"input_reference": URL}, "first_frame_image_to_video"),
            ({"reference_images": [URL]}, "reference_images_to_video"),
            ({"images": [{"url": URL}]}, "reference_images_to_video"),
            ({"image": URL, "video_generation_mode": "later_mode"}, "later_mode"),
        ],
        ids=["text", "first frame", "alias", "references", "alias of references", "author's"],
    )
    def test_generation_mode_matches_images_in_parameters(self, parameters: dict[str, Any], mode: str) -> None:
        body = replace(self.SUCCESSOR, parameters=parameters).wire_body([])
        assert body == {"model": "grok-video-1.5", "prompt": "x", **parameters, "video_generation_mode": mode}


class TestModelNames:
    @pytest.mark.parametrize(
        ("requested", "returned", "same"),
        [
            (PREVIEW, PREVIEW, True),
            ("MiniMax-H3", "minimax-h3", True),
            ("gemini-omni-flash", "gemini_omni_flash", True),
            (PREVIEW, "grok-video-1.5", False),
            ("no-such-model", "no-such-model", True),
            ("no-such-model", "another", False),
        ],
    )
    def test_aliases_are_the_same_model(self, requested: str, returned: str, same: bool) -> None:
        assert replace(REQUEST, model=requested).is_model(returned) is same


class TestFingerprint:
    @pytest.mark.parametrize(
        "changed",
        [
            {"prompt": "pull out"},
            {"prompt": None},
            {"model": "grok-video-1.5"},
            {"duration": 15},
            {"duration": None},
            {"aspect_ratio": "16:9"},
            {"parameters": {"seed": 1}},
            {"parameters": {"seed": None}},
            {"images": (ReferenceImage.from_url(f"{URL}?v=2"),)},
            {"images": (uploaded("aa"),)},
            {"images": ()},
        ],
        ids=str,
    )
    def test_fingerprint_changes_with_the_request(self, changed: dict[str, Any]) -> None:
        assert replace(REQUEST, **changed).fingerprint() != REQUEST.fingerprint()

    def test_fingerprint_changes_with_operation_and_source_video(self) -> None:
        requests = [
            REMIX,
            replace(REMIX, operation="extend"),
            replace(REMIX, video_id="video_2"),
            replace(REMIX, operation="extend", video_id="video_2"),
            replace(REMIX, operation="generate", video_id=None),
        ]
        assert len({request.fingerprint() for request in requests}) == len(requests)

    def test_newly_signed_url_is_the_same_image(self) -> None:
        fingerprints = {
            replace(REQUEST, images=(ReferenceImage.from_url(signed(day)),)).fingerprint() for day in (1, 2)
        }
        assert fingerprints == {REQUEST.fingerprint()}

    @pytest.mark.parametrize(
        "parameters",
        [
            lambda url: {"images": [url]},
            lambda url: {"image_with_roles": [{"url": url, "role": "first_frame"}]},
            lambda url: {"metadata": {"last_frame_image": url}},
        ],
    )
    def test_newly_signed_url_in_parameters_is_the_same_image(self, parameters: Any) -> None:
        first, again, other = (
            VideoRequest(model="m", prompt="x", parameters=parameters(url)).fingerprint()
            for url in (signed(1), signed(2), signed(2, "https://example.com/boot.jpg"))
        )
        assert first == again != other

    def test_file_is_identified_by_content_not_name(self) -> None:
        same = replace(REQUEST, images=(uploaded("aa"),)), replace(REQUEST, images=(uploaded("aa", "copy.jpg"),))
        other = replace(REQUEST, images=(uploaded("bb"),))
        assert same[0].fingerprint() == same[1].fingerprint() != other.fingerprint()

    def test_fingerprint_depends_on_image_order_but_not_parameter_order(self) -> None:
        two = ReferenceImage.from_url(URL), ReferenceImage.from_url(f"{URL}2")
        request = VideoRequest(model="grok-video-1.0", prompt="x", images=two)
        assert request.fingerprint() != replace(request, images=two[::-1]).fingerprint()
        parameters = {"a": 1, "b": {"c": 2, "d": 3}}
        reordered = {"b": {"d": 3, "c": 2}, "a": 1}
        assert (
            replace(request, parameters=parameters).fingerprint()
            == replace(request, parameters=reordered).fingerprint()
        )

    @pytest.mark.parametrize("value", [object(), {1, 2}, float("nan"), b"x"])
    def test_parameters_that_are_not_json_are_rejected(self, value: object) -> None:
        with rejects("parameters", ["x", "y"]) as raised:
            replace(REQUEST, parameters={"x": value, "y": "words of an author"}).fingerprint()
        assert "words" not in str(raised.value)

    def test_fingerprint_is_stable_across_upgrades(self) -> None:
        assert REQUEST.fingerprint() == "abc5201884320283cfc855968150a8ee77350450282982ef04ef97e81b853bc2"

    def test_fingerprint_does_not_depend_on_the_model_catalog(self, monkeypatch: pytest.MonkeyPatch) -> None:
        successor = replace(REQUEST, model="grok-video-1.5")
        known, sent = successor.fingerprint(), successor.wire_body([URL])
        monkeypatch.setattr(video_request, "find_model", lambda _: None)
        assert successor.wire_body([URL]) != sent
        assert successor.fingerprint() == known


def derived_key(fingerprint: str, identity: Sequence[str], generation: int = 0) -> str:
    return IdempotencyKeys.derived(fingerprint, identity).for_generation(generation)


class TestDerivedKeys:
    IDENTITY = ("namespace", "dag", "task", "run", "0")

    @given(st.text(), st.lists(st.text(), max_size=6), st.integers(min_value=0, max_value=10**6))
    def test_derived_keys_are_short_and_plain(self, fingerprint: str, identity: list[str], generation: int) -> None:
        assert re.fullmatch(r"af-[a-z0-9-]{1,45}", derived_key(fingerprint, identity, generation))

    def test_derived_key_is_deterministic(self) -> None:
        assert derived_key("f", self.IDENTITY, 1) == derived_key("f", self.IDENTITY, 1)

    def test_derived_keys_differ_by_every_part_and_generation(self) -> None:
        variants = [
            *(derived_key("f", self.IDENTITY, generation) for generation in (0, 1, 11)),
            derived_key("g", self.IDENTITY),
            *(
                derived_key("f", (*self.IDENTITY[:index], "other", *self.IDENTITY[index + 1 :]))
                for index in range(len(self.IDENTITY))
            ),
            derived_key("f", (*self.IDENTITY, "")),
        ]
        assert len(set(variants)) == len(variants)

    def test_derived_key_separates_its_parts(self) -> None:
        assert derived_key("f", ("a", "bc")) != derived_key("f", ("ab", "c"))

    def test_derived_keys_are_stable_across_upgrades(self) -> None:
        assert derived_key("f", self.IDENTITY) == "af-d4c332ec05b4dfab847723f65b1164a02f668431"

    def test_first_generation_offsets_the_generations(self) -> None:
        keys = IdempotencyKeys.derived("f", self.IDENTITY)
        assert replace(keys, first_generation=2).for_generation(1) == keys.for_generation(3)


class TestChosenKeys:
    def test_first_chosen_key_is_unchanged_and_later_ones_are_numbered(self) -> None:
        keys = IdempotencyKeys.from_author("sku-1")
        assert list(map(keys.for_generation, range(3))) == ["sku-1", "sku-1-1", "sku-1-2"]

    @pytest.mark.parametrize("chosen", ["a", "A_b-9", "x" * 60, "videos-1", "my_video_1", "taskforce"])
    def test_valid_chosen_key_is_accepted(self, chosen: str) -> None:
        assert IdempotencyKeys.from_author(chosen).for_generation(0) == chosen

    @pytest.mark.parametrize(
        "chosen",
        [
            "",
            " ",
            "x" * 61,
            "a b",
            "a/b",
            "a.b",
            "a:b",
            "\u00e4",
            "a\n",
            "video_1",
            "task_1",
            "tsk_1",
            "vid_1",
            None,
            7,
        ],
    )
    def test_invalid_chosen_key_is_rejected_by_name(self, chosen: Any) -> None:
        with rejects("client_business_id", chosen):
            IdempotencyKeys.from_author(chosen)


class TestParseDuration:
    @pytest.mark.parametrize(
        ("rendered", "seconds"),
        [(None, None), ("", None), (10, 10), ("10", 10), (" 10 ", 10), (10.0, 10), ("10.0", 10), (0, 0), ("-1", -1)],
    )
    def test_whole_seconds_are_parsed(self, rendered: object, seconds: int | None) -> None:
        assert parse_duration(rendered) == seconds

    @pytest.mark.parametrize(
        "rendered", ["ten", "10s", "10.5", 10.5, True, False, "1e2", [], "nan", "9" * 50, "\u0661"]
    )
    def test_other_duration_is_rejected(self, rendered: object) -> None:
        with rejects("duration", rendered):
            parse_duration(rendered)


class TestImageReferences:
    @pytest.mark.parametrize(
        ("image", "listed"),
        [
            (None, ()),
            (URL, (URL,)),
            ("/data/shoe.jpg", ("/data/shoe.jpg",)),
            ("s3://bucket/shoe.jpg", ("s3://bucket/shoe.jpg",)),
            ([URL, "shoe.jpg"], (URL, "shoe.jpg")),
            ([], ()),
        ],
    )
    def test_image_references_are_listed(self, image: Any, listed: tuple[str, ...]) -> None:
        assert image_references(image) == listed

    @pytest.mark.parametrize(
        "image",
        [
            "data:image/png;base64,iVBORw0KGgoAAAANSUhEUg==",
            "DATA:image/png;base64,iVBORw0KGgo=",
            "\n  data:image/png;base64,iVBORw0KGgo=",
            "iVBORw0KGgo" * 40,
            "iVBOR/0K+go=\n" * 40,
        ],
        ids=lambda image: repr(image[:20]),
    )
    def test_base64_image_is_rejected_with_advice(self, image: str) -> None:
        with rejects("image") as rejected:
            image_references(image)
        for advice in ("base64", "http(s) URL", "path"):
            assert advice in str(rejected.value)
        assert image.strip()[30:] not in str(rejected.value)

    @pytest.mark.parametrize(
        "image",
        ["", " ", [""], [None], 7, b"x", ["a", 7], "https://", "http:///shoe.jpg", "https://[::1/x.jpg", f"{URL} x"],
    )
    def test_invalid_image_reference_is_rejected(self, image: Any) -> None:
        with rejects("image"):
            image_references(image)

    def test_any_iterable_is_read_once(self) -> None:
        def images() -> Iterator[str]:
            yield URL

        assert image_references(images()) == (URL,)

    @pytest.mark.parametrize(
        ("reference", "url"),
        [(URL, True), ("HTTP://a/b", True), ("s3://a/b", False), ("/http://a", False), ("httpx.jpg", False)],
    )
    def test_only_http_references_are_urls(self, reference: str, url: bool) -> None:
        assert is_url(reference) is url


def test_nested_texts_of_a_request_are_private() -> None:
    parameters = {"negative_prompt": "no logos", "seed": 7, "shots": [{"prompt": "It turns"}, ("slowly", None)]}
    request = VideoRequest(model="grok-video-1.5-preview", prompt="A shoe", parameters=parameters)
    assert request.private == ("A shoe", "no logos", "It turns", "slowly")
