from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest

from airflow_provider_toapis.api.model_catalog import (
    OPERATIONS,
    VideoModel,
    find_model,
    parse_catalog,
    similar_model_ids,
    video_models,
)
from airflow_provider_toapis.api.model_inputs import OperationInputs
from airflow_provider_toapis.exceptions import ToAPIsRequestError
from tests.errors import rejects

SEED = "grok-video-1.5-preview"
IMAGE = "https://example.com/shoe.jpg"


def model(model_id: str) -> VideoModel:
    found = find_model(model_id)
    assert found is not None, model_id
    return found


def check(model_id: str, **given: Any) -> None:
    accepted: dict[str, Any] = {"prompt": "push in", "duration": None, "aspect_ratio": None, "image_count": 1}
    model(model_id).check(**accepted | given)


def rejection(model_id: str, **given: Any) -> str:
    with pytest.raises(ToAPIsRequestError) as rejected:
        check(model_id, **given)
    return str(rejected.value)


def wire(model_id: str, *image_urls: str, operation: str = "generate", **given: Any) -> dict[str, object]:
    fields: dict[str, Any] = {"duration": None, "aspect_ratio": None} | given
    return model(model_id).wire_fields(operation=operation, image_urls=image_urls, **fields)


def urls(count: int) -> list[str]:
    return [f"https://example.com/{number}.jpg" for number in range(count)]


class TestSeedModel:
    @pytest.mark.parametrize(("duration", "seconds"), [(10, "10"), (15, "15")])
    def test_duration_is_sent_as_seconds_in_a_string(self, duration: int, seconds: str) -> None:
        check(SEED, duration=duration)
        assert wire(SEED, IMAGE, duration=duration) == {"images": [IMAGE], "seconds": seconds}

    @pytest.mark.parametrize("duration", [0, -1, 1, 5, 6, 8, 9, 11, 12, 14, 16, 20, 30, True, 10.0, "10", "15"])
    def test_other_durations_are_rejected(self, duration: object) -> None:
        message = rejection(SEED, duration=duration)
        assert f"duration={duration!r}" in message
        assert "grok-video-1.5-preview allows 10 or 15 seconds" in message

    @pytest.mark.parametrize("aspect_ratio", ["16:9", "9:16", "3:2", "2:3", "1:1"])
    def test_documented_ratios_are_sent_unchanged(self, aspect_ratio: str) -> None:
        check(SEED, aspect_ratio=aspect_ratio)
        assert wire(SEED, IMAGE, aspect_ratio=aspect_ratio) == {"images": [IMAGE], "aspect_ratio": aspect_ratio}

    @pytest.mark.parametrize("aspect_ratio", ["4:3", "3:4", "21:9", "16/9", "adaptive", "", " 16:9", 1])
    def test_other_ratios_are_rejected(self, aspect_ratio: object) -> None:
        message = rejection(SEED, aspect_ratio=aspect_ratio)
        assert f"aspect_ratio={aspect_ratio!r}" in message
        assert "allows 16:9, 9:16, 3:2, 2:3 or 1:1" in message

    @pytest.mark.parametrize("image_count", [0, 2, 3, 7])
    def test_exactly_one_image_is_required(self, image_count: int) -> None:
        message = rejection(SEED, image_count=image_count)
        assert message.startswith("Invalid image=")
        assert f"{SEED} needs exactly one image, an http(s) URL or a file" in message

    @pytest.mark.parametrize("prompt", [None, "", "  \n"])
    def test_prompt_is_required(self, prompt: str | None) -> None:
        message = rejection(SEED, prompt=prompt)
        assert message.startswith("Invalid prompt=")
        assert f"{SEED} requires a prompt" in message

    @pytest.mark.parametrize("operation", ["remix", "extend"])
    def test_other_operations_are_rejected_with_models_that_offer_them(self, operation: str) -> None:
        message = rejection(SEED, operation=operation)
        assert f"model='{SEED}'" in message
        assert f"does not offer {operation}. Models that do: grok-video-1.0, grok-video-3" in message

    def test_missing_arguments_are_not_sent(self) -> None:
        assert wire(SEED, IMAGE) == {"images": [IMAGE]}

    def test_seed_model_has_its_documented_facts(self) -> None:
        seed = model(SEED)
        assert seed.source == "SEED [D-old]"
        assert seed.operations == ("generate",)
        assert (seed.retired, seed.successor) == (True, "grok-video-1.5")
        assert seed.generate.duration is not None
        assert seed.generate.duration.default == 10
        assert seed.generate.aspect_ratio is not None
        assert seed.generate.aspect_ratio.default == "16:9"
        assert seed.generate.image_required

    def test_rejection_states_that_nothing_was_submitted(self) -> None:
        assert "Nothing was submitted" in rejection(SEED, duration=12)


# (id, accepted durations, rejected durations, duration field, its type, ratio field, field of one image)
MATRIX = [
    (SEED, [10, 15], [8, 12], "seconds", str, "aspect_ratio", "images"),
    ("grok-video-1.5", [1, 15], [0, 16], "duration", int, "aspect_ratio", "image"),
    ("grok-video-1.0", [1, 15], [0, 16], "duration", int, "aspect_ratio", "image"),
    ("grok-video-3", [6, 10, 15], [5, 8], "seconds", str, "aspect_ratio", "images"),
    ("grok-imagine-1.0-video", [6, 30], [5, 31], "duration", int, "aspect_ratio", "image_urls"),
    ("sora-2-vvip", [4, 8, 12], [5, 10], "duration", int, "aspect_ratio", "image_urls"),
    ("sora-2", [10, 15], [4, 25], "duration", int, "aspect_ratio", "image_urls"),
    ("sora-2-pro", [10, 15, 25], [4, 20], "duration", int, "aspect_ratio", "image_urls"),
    ("sora-2-vip", [10, 15, 25], [4, 20], "duration", int, "aspect_ratio", "image_urls"),
    ("sora-2-official", [4, 8, 12], [10], "duration", int, "aspect_ratio", "image_urls"),
    ("veo3.1-fast", [8], [4, 6], "duration", int, "aspect_ratio", "image_urls"),
    ("veo3.1-quality", [8], [4, 6], "duration", int, "aspect_ratio", "image_urls"),
    ("veo3.1-lite", [8], [4, 6], "duration", int, "aspect_ratio", "image_urls"),
    ("Veo3.1-quality-official", [4, 6, 8], [5], "duration", int, "size", "image_urls"),
    ("Veo3.1-fast-official", [4, 6, 8], [5], "duration", int, "size", "image_urls"),
    ("Veo3.1-lite-official", [4, 6, 8], [5], "duration", int, "size", "image_urls"),
    ("gemini-omni-flash", [4, 6, 10], [8], "duration", int, "aspect_ratio", "image_urls"),
    ("gemini-omni-flash-preview-official", [4, 10], [0, 11], "duration", int, "aspect_ratio", "image_urls"),
    ("gemini-omni-1.1-flash-preview", [10], [6], "duration", int, "aspect_ratio", "image_urls"),
    ("gemini-omni-1.1-flash-preview-vip", [4, 6, 8, 10], [5], "duration", int, "aspect_ratio", "image_urls"),
    ("gemini-omni-1.1-flash-preview-official", [3, 10], [2, 11], "duration", int, "aspect_ratio", "image_urls"),
    ("doubao-seedance-1-0-pro-fast", [2, 12], [1, 13], "duration", int, "aspect_ratio", "image_urls"),
    ("doubao-seedance-1-0-pro-quality", [2, 12], [1, 13], "duration", int, "aspect_ratio", "image_urls"),
    ("doubao-seedance-1-5-pro", [4, 12], [3, 13], "duration", int, "aspect_ratio", "image_urls"),
    ("seedance-2", [4, 15, 0, -1], [3, 16, -2], "duration", int, "aspect_ratio", "image_urls"),
    ("seedance-2-fast", [4, 15, 0, -1], [3, 16, -2], "duration", int, "aspect_ratio", "image_urls"),
    ("seedance-2-mini", [4, 15], [0, -1, 3, 16], "duration", int, "aspect_ratio", "image_urls"),
    ("seedance-2-5", [4, 30, -1], [0, 3, 31], "duration", int, "aspect_ratio", "image_urls"),
    ("seedance-2-5-cn", [4, 30, -1], [0, 3, 31], "duration", int, "aspect_ratio", "image_urls"),
    ("seedance-2-5-global", [4, 30, -1], [0, 3, 31], "duration", int, "aspect_ratio", "image_urls"),
    ("wan3.0-video", [2, 30], [1, 31], "duration", int, "ratio", "reference_images"),
    ("wan2.6", [5, 10, 15], [6], "duration", int, "aspect_ratio", "image_urls"),
    ("wan2.6-flash", [5, 10, 15], [6], "duration", int, None, "image_urls"),
    ("kling-v2-6", [5, 10], [6], "duration", int, "aspect_ratio", "image_with_roles"),
    ("kling-v3", [3, 15], [2, 16], "duration", int, "aspect_ratio", "image_with_roles"),
    ("kling-3.0-turbo", [3, 15], [2, 16], "duration", int, "aspect_ratio", "reference_images"),
    ("kling-v3-omni", [3, 15], [2, 16], "duration", int, "aspect_ratio", "metadata"),
    ("kling-video-o1", [3, 10], [2, 11], "duration", int, "aspect_ratio", "metadata"),
    ("MiniMax-Hailuo-02", [6, 10], [8], "duration", int, None, "image_urls"),
    ("MiniMax-Hailuo-2.3", [6, 10], [8], "duration", int, None, "image_urls"),
    ("MiniMax-Hailuo-2.3-Fast", [6, 10], [8], "duration", int, None, "image_urls"),
    ("MiniMax-H3", [4, 15], [3, 16], "duration", int, "aspect_ratio", "image_urls"),
    ("viduq3-pro", [1, 16], [0, 17], "duration", int, "aspect_ratio", "image_urls"),
    ("viduq3-turbo", [1, 16], [0, 17], "duration", int, "aspect_ratio", "image_urls"),
    ("viduq3", [3, 16], [2, 17], "duration", int, "aspect_ratio", "image_urls"),
    ("viduq3-pro-fast", [1, 5, 16], [0, -1], "duration", int, "aspect_ratio", "image_urls"),
    ("viduq3-ad", [1, 5, 16], [0, -1], "duration", int, "aspect_ratio", "image_urls"),
    ("viduq3-drama", [1, 5, 16], [0, -1], "duration", int, "aspect_ratio", "image_urls"),
    ("viduq3-mix", [1, 5, 16], [0, -1], "duration", int, "aspect_ratio", "image_urls"),
    ("happyhorse-1.1", [3, 15], [2, 16], "duration", int, "aspect_ratio", "image_urls"),
]
COLUMNS = ("model_id", "accepted", "rejected", "duration_field", "wire_type", "ratio_field", "image_field")


class TestEveryModel:
    def test_matrix_covers_the_whole_catalog(self) -> None:
        assert [row[0] for row in MATRIX] == [known.id for known in video_models()]

    @pytest.mark.parametrize(COLUMNS, MATRIX)
    def test_durations_and_fields_are_sent_with_documented_names_and_types(
        self,
        *,
        model_id: str,
        accepted: list[int],
        rejected: list[int],
        duration_field: str,
        wire_type: type,
        ratio_field: str | None,
        image_field: str,
    ) -> None:
        expected = {duration_field, image_field} | ({ratio_field} if ratio_field else set())
        for duration in accepted:
            check(model_id, duration=duration)
            fields = wire(model_id, IMAGE, duration=duration, aspect_ratio="16:9" if ratio_field else None)
            assert fields.keys() - {"video_generation_mode"} == expected
            assert fields[duration_field] == wire_type(duration)
            assert type(fields[duration_field]) is wire_type
            assert ratio_field is None or fields[ratio_field] == "16:9"
        for duration in [*rejected, True]:
            assert f"duration={duration}" in rejection(model_id, duration=duration)

    @pytest.mark.parametrize("model_id", [row[0] for row in MATRIX if row[5] is None])
    def test_ratio_that_a_model_does_not_accept_is_rejected(self, model_id: str) -> None:
        assert model_id in rejection(model_id, aspect_ratio="16:9")
        with rejects("aspect_ratio", "16:9"):
            wire(model_id, IMAGE, aspect_ratio="16:9")

    @pytest.mark.parametrize("known", video_models(), ids=lambda known: known.id)
    def test_defaults_are_among_the_accepted_values(self, known: VideoModel) -> None:
        for operation in known.operations:
            inputs = known.inputs(operation)
            if inputs.duration and inputs.duration.default is not None:
                assert inputs.duration.accepts(inputs.duration.default)
            if inputs.aspect_ratio and inputs.aspect_ratio.default is not None:
                assert inputs.aspect_ratio.accepts(inputs.aspect_ratio.default)

    @pytest.mark.parametrize("known", video_models(), ids=lambda known: known.id)
    def test_model_names_its_source(self, known: VideoModel) -> None:
        assert "[D" in known.source

    def test_only_documented_models_require_an_image(self) -> None:
        image_models = [known.id for known in video_models() if known.generate.image_required]
        assert image_models == [SEED, "MiniMax-Hailuo-2.3-Fast", "viduq3"]
        for known in video_models():
            if known.id not in image_models:
                check(known.id, image_count=0)


class TestImages:
    @pytest.mark.parametrize(
        ("count", "fields"),
        [
            (0, {"video_generation_mode": "text_to_video"}),
            (1, {"image": urls(1)[0], "video_generation_mode": "first_frame_image_to_video"}),
            (2, {"reference_images": urls(2), "video_generation_mode": "reference_images_to_video"}),
            (7, {"reference_images": urls(7), "video_generation_mode": "reference_images_to_video"}),
        ],
    )
    def test_grok_video_1_5_gets_the_mode_of_its_images(self, count: int, fields: dict[str, object]) -> None:
        check("grok-video-1.5", image_count=count)
        assert wire("grok-video-1.5", *urls(count)) == fields

    def test_grok_video_1_0_has_one_image_or_references(self) -> None:
        assert wire("grok-video-1.0") == {}
        assert wire("grok-video-1.0", IMAGE) == {"image": IMAGE}
        assert wire("grok-video-1.0", *urls(8)) == {"reference_images": urls(8)}

    def test_kling_gets_a_first_frame_or_references(self) -> None:
        assert wire("kling-v3", IMAGE) == {"image_with_roles": [{"url": IMAGE, "role": "first_frame"}]}
        assert wire("kling-v3", *urls(2)) == {"reference_images": urls(2)}

    def test_kling_omni_gets_objects_inside_metadata(self) -> None:
        first = {"metadata": {"image_list": [{"image_url": IMAGE, "type": "first_frame"}]}}
        assert wire("kling-v3-omni", IMAGE) == first
        several = {"metadata": {"image_list": [{"image_url": url} for url in urls(2)]}}
        assert wire("kling-v3-omni", *urls(2)) == several

    def test_happyhorse_gets_the_action_with_its_references(self) -> None:
        references = {"reference_images": urls(9), "action": "reference-to-video"}
        assert wire("happyhorse-1.1", *urls(9)) == references

    @pytest.mark.parametrize(
        ("model_id", "max_images", "message_part"),
        [
            ("grok-video-1.5", 7, "takes at most 7 images"),
            ("grok-video-1.0", 8, "takes at most 8 images"),
            ("wan2.6", 1, "takes at most one image"),
            ("viduq3", 7, "needs 1 to 7 images, each an http(s) URL or a file"),
        ],
    )
    def test_more_images_than_documented_are_rejected(self, model_id: str, max_images: int, message_part: str) -> None:
        check(model_id, image_count=max_images)
        message = rejection(model_id, image_count=max_images + 1)
        assert f"image='{max_images + 1} images'" in message
        assert message_part in message
        with pytest.raises(ToAPIsRequestError):
            wire(model_id, *urls(max_images + 1))

    def test_any_image_count_is_accepted_without_a_documented_limit(self) -> None:
        check("veo3.1-fast", image_count=40)
        assert wire("veo3.1-fast", *urls(40)) == {"image_urls": urls(40)}

    def test_no_image_fields_are_sent_if_parameters_contain_them(self) -> None:
        fields = model("grok-video-1.5").wire_fields(duration=5, aspect_ratio=None, image_urls=None)
        assert fields == {"duration": 5}

    @pytest.mark.parametrize(
        ("written", "mode"),
        [
            (["image"], "first_frame_image_to_video"),
            (["input_reference"], "first_frame_image_to_video"),
            (["image_urls", "resolution"], "reference_images_to_video"),
        ],
    )
    def test_mode_matches_image_fields_in_parameters(self, written: list[str], mode: str) -> None:
        known = model("grok-video-1.5")
        fields = known.wire_fields(duration=None, aspect_ratio=None, image_urls=None, author_fields=written)
        assert fields == {"video_generation_mode": mode}

    def test_contradictory_image_fields_get_no_mode(self) -> None:
        written = ["image", "reference_images"]
        known = model("grok-video-1.5")
        assert known.wire_fields(duration=None, aspect_ratio=None, image_urls=None, author_fields=written) == {}

    def test_image_fields_are_the_top_level_ones(self) -> None:
        assert model(SEED).image_fields == ("images",)
        assert model("grok-video-1.5").image_fields == (
            "image",
            "input_reference",
            "reference_images",
            "image_urls",
            "images",
        )
        assert model("kling-v3-omni").image_fields == ()

    def test_results_share_nothing_with_the_catalog(self) -> None:
        for fields in (wire("grok-video-1.5"), wire("happyhorse-1.1", *urls(2))):
            fields["action"] = fields["video_generation_mode"] = "changed"
        assert wire("grok-video-1.5") == {"video_generation_mode": "text_to_video"}
        assert wire("happyhorse-1.1", *urls(2))["action"] == "reference-to-video"


class TestRemixAndExtend:
    def test_remix_and_extend_are_offered_by_documented_models(self) -> None:
        sora = ["sora-2-vvip", "sora-2", "sora-2-pro", "sora-2-vip", "sora-2-official"]
        models_by_operation = {name: [m.id for m in video_models() if name in m.operations] for name in OPERATIONS}
        assert models_by_operation["remix"] == ["grok-video-1.0", "grok-video-3", *sora]
        assert models_by_operation["extend"] == ["grok-video-1.0", "grok-video-3"]
        assert len(models_by_operation["generate"]) == len(MATRIX)

    @pytest.mark.parametrize("aspect_ratio", ["16:9", "9:16"])
    def test_grok_remix_accepts_two_ratios(self, aspect_ratio: str) -> None:
        check("grok-video-1.0", operation="remix", aspect_ratio=aspect_ratio, image_count=0)
        fields = wire("grok-video-1.0", operation="remix", aspect_ratio=aspect_ratio)
        assert fields == {"aspect_ratio": aspect_ratio}

    def test_grok_remix_rejects_a_ratio_that_generate_accepts(self) -> None:
        check("grok-video-1.0", aspect_ratio="1:1")
        message = rejection("grok-video-1.0", operation="remix", aspect_ratio="1:1", image_count=0)
        assert "remix with grok-video-1.0 allows 16:9 or 9:16" in message

    @pytest.mark.parametrize(
        ("model_id", "operation", "given", "message_part"),
        [
            ("grok-video-1.0", "remix", {"duration": 5}, "remix with grok-video-1.0 does not accept duration"),
            ("grok-video-1.0", "extend", {"duration": 5}, "extend with grok-video-1.0 does not accept duration"),
            (
                "grok-video-1.0",
                "extend",
                {"aspect_ratio": "16:9"},
                "extend with grok-video-1.0 does not accept aspect_ratio",
            ),
            ("grok-video-1.0", "remix", {"image_count": 1}, "remix with grok-video-1.0 takes no image"),
            ("grok-video-1.0", "extend", {"prompt": None}, "extend with grok-video-1.0 requires a prompt"),
            ("sora-2-official", "remix", {"duration": 8}, "remix with sora-2-official does not accept duration"),
            ("sora-2", "remix", {"duration": 25}, "remix with sora-2 allows 10 or 15 seconds"),
        ],
    )
    def test_unsupported_remix_and_extend_arguments_are_rejected(
        self, model_id: str, operation: str, given: dict[str, Any], message_part: str
    ) -> None:
        assert message_part in rejection(model_id, operation=operation, **{"image_count": 0} | given)

    def test_unknown_operation_is_rejected(self) -> None:
        assert "does not offer upscale. Models that do: none" in rejection(SEED, operation="upscale")

    def test_sora_remix_accepts_a_duration(self) -> None:
        fields = wire("sora-2-pro", operation="remix", duration=25, aspect_ratio="1:1")
        assert fields == {"duration": 25, "aspect_ratio": "1:1"}


class TestPrompt:
    @pytest.mark.parametrize(("model_id", "max_length"), [("kling-v2-6", 2500), ("MiniMax-H3", 7000)])
    def test_too_long_prompt_is_rejected_and_not_shown(self, model_id: str, max_length: int) -> None:
        check(model_id, prompt="x" * max_length)
        message = rejection(model_id, prompt="x" * (max_length + 1))
        assert f"prompt='{max_length + 1} characters'" in message
        assert f"allows at most {max_length} characters" in message
        assert "xxx" not in message

    def test_prompt_length_is_unlimited_without_a_documented_limit(self) -> None:
        check(SEED, prompt="x" * 100_000)

    @pytest.mark.parametrize("model_id", ["seedance-2", "wan2.6-flash", "happyhorse-1.1"])
    def test_optional_prompt_can_be_missing(self, model_id: str) -> None:
        check(model_id, prompt=None)


class TestFindModel:
    @pytest.mark.parametrize("model_id", ["", "no-such-model", "GROK-VIDEO-1.5", "minimax-h3", " seedance-2"])
    def test_inexact_model_id_is_not_found(self, model_id: str) -> None:
        assert find_model(model_id) is None

    def test_alias_finds_its_model(self) -> None:
        assert model("gemini_omni_flash") is model("gemini-omni-flash")

    @pytest.mark.parametrize(
        ("written", "suggestion"),
        [
            ("Grok-Video-1.5-Preview", SEED),
            ("grok-video-1.5-preveiw", SEED),
            ("minimax-h3", "MiniMax-H3"),
            ("veo3.1-Fast-Official", "Veo3.1-fast-official"),
            ("seedance-2.0", "seedance-2"),
            ("Gemini_Omni_Flash", "gemini-omni-flash"),
        ],
    )
    def test_misspelled_model_id_gets_a_suggestion(self, written: str, suggestion: str) -> None:
        assert similar_model_ids(written)[0] == suggestion

    @pytest.mark.parametrize("model_id", ["", "my-own-finetune", SEED, "gemini_omni_flash"])
    def test_foreign_or_known_model_id_gets_no_suggestion(self, model_id: str) -> None:
        assert similar_model_ids(model_id) == ()

    def test_successors_are_current_models(self) -> None:
        retired = {known.id: known.successor for known in video_models() if known.retired}
        assert retired == {SEED: "grok-video-1.5", "grok-video-3": "grok-video-1.0"}
        assert not any(model(successor).retired for successor in retired.values() if successor)

    def test_unknown_model_gets_usual_field_names_and_no_limits(self) -> None:
        unknown = VideoModel.unknown("brand-new-1")
        for operation in OPERATIONS:
            unknown.check(operation=operation, prompt=None, duration=-1, aspect_ratio="5:4", image_count=50)
            unknown.check(operation=operation, prompt="x" * 9000, duration=999, aspect_ratio=None, image_count=0)
        fields = unknown.wire_fields(duration=99, aspect_ratio="5:4", image_urls=urls(2))
        assert fields == {"duration": 99, "aspect_ratio": "5:4", "image_urls": urls(2)}
        assert unknown.price(10) is None

    def test_catalog_is_read_on_first_use_and_not_on_import(self) -> None:
        code = "from airflow_provider_toapis.api.model_catalog import video_models as v; print(v.cache_info().currsize)"
        run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert run.stdout.strip() == "0"


class TestPrice:
    @pytest.mark.parametrize(
        ("model_id", "duration", "price"),
        [
            (SEED, 10, "0.10"),
            (SEED, 15, "0.15"),
        ],
    )
    def test_published_prices_are_returned(self, model_id: str, duration: int, price: str) -> None:
        assert model(model_id).price(duration) == Decimal(price)

    @pytest.mark.parametrize("duration", [None, 0, 10])
    def test_model_without_a_published_price_has_none(self, duration: int | None) -> None:
        assert model("seedance-2").price(duration) is None
        assert model("wan2.6-flash").price(duration) is None
        assert model("grok-video-1.5").price(duration) is None

    def test_duration_without_a_published_price_has_none(self) -> None:
        assert model(SEED).price(12) is None
        assert model(SEED).price(None) is None


def entry(generate: str = "", price: str = "", model_id: str = "m") -> str:
    return f'[models."{model_id}"]\nsource = "test [D]"\n{price}\n[models."{model_id}".generate]\n{generate}\n'


class TestCatalogValidation:
    def test_minimal_entry_is_accepted(self) -> None:
        (minimal,) = parse_catalog(entry())
        assert minimal == VideoModel(id="m", source="test [D]", generate=OperationInputs())

    @pytest.mark.parametrize(
        ("generate", "problem"),
        [
            ('durations = { field = "duration" }', "unknown durations"),
            ('duration = { field = "duration", maxmum = 3 }', "unknown maxmum"),
            ("duration = { values = [3] }", "field"),
            ('duration = { field = "duration", values = ["3"] }', "'3' is not <class 'int'>"),
            ('duration = { field = "duration", values = [true] }', "True is not <class 'int'>"),
            ('duration = { field = "duration", type = "number" }', "'number' is not"),
            ('duration = { field = "duration", values = [3], maximum = 5 }', "both values and a range"),
            ('duration = { field = "duration", minimum = 6, maximum = 5 }', "maximum duration 5"),
            ('duration = { field = "duration", maximum = 5, default = 6 }', "default duration 6"),
            ('aspect_ratio = { field = "ratio", values = ["1:1"], default = "16:9" }', "default aspect_ratio 16:9"),
            ('aspect_ratio = "ratio"', "'ratio' is not"),
            ('images = [{ field = "image", shape = "string" }]', "a single image URL"),
            ('images = [{ field = "images", item = { url = "url" } }]', "does not contain"),
            ('images = [{ field = "images", minimum = 2 }]', "has a minimum of 2 images instead of 1"),
            ('images = [{ field = "a" }, { field = "b", minimum = 2 }]', "has a minimum of 2 images instead of None"),
            ('images = [{ field = "a", maximum = 0 }]', "maximum of 0"),
            ("image_required = true", "contradicts"),
            ('image_required = "yes"', "is not <class 'bool'>"),
        ],
    )
    def test_invalid_inputs_are_rejected_with_the_entry(self, generate: str, problem: str) -> None:
        with pytest.raises(ValueError, match="Catalog entry m: ") as error:
            parse_catalog(entry(generate))
        assert problem in str(error.value)

    @pytest.mark.parametrize(
        ("line", "problem"),
        [
            ('successor = "m"', "successor although the model is not retired"),
            ('retired = true\nsuccessor = "n"', "unknown successor n"),
            ('price_per_request = { 5 = "cheap" }', "Catalog entry m"),
            ("price_per_request = { 5 = 0.01 }", "is not"),
            ('price_per_request = { 9 = "0.10" }', "price for a duration that is not allowed"),
            ('aliases = "n"', "is not"),
            ('aliases = ["m"]', "alias"),
        ],
    )
    def test_invalid_model_fields_are_rejected(self, line: str, problem: str) -> None:
        with pytest.raises(ValueError, match="Catalog") as error:
            parse_catalog(entry('duration = { field = "duration", values = [5] }', price=line))
        assert problem in str(error.value)
