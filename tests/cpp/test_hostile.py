"""Hostile bundles are refused by both runtimes, with the same family of errors: the Python runtime's own attacks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from soda_runtime import Bundle, BundleError, EngineError

from tests.runtime.bundles import Json, edit_manifest, flip_bit, put
from tests.runtime.lies import TRUTHS
from tests.runtime.test_hostile import (
    test_a_manifest_of_prompts_that_lies_is_refused,
    test_a_manifest_of_version_1_that_lies_is_refused,
    test_a_manifest_over_16_mib_is_refused_unread,
    test_a_manifest_that_is_not_its_json_is_refused,
    test_a_manifest_that_lies_is_refused,
)
from tests.runtime.test_hostile_files import (
    impatient,
    test_a_damaged_file_of_a_bundle_of_prompts_is_refused,
    test_a_directory_in_place_of_a_file_is_refused,
    test_a_flipped_bit_anywhere_in_the_weights_is_refused,
    test_a_flipped_bit_in_any_file_is_refused,
    test_a_link_to_a_pipe_or_a_folder_is_refused,
    test_a_link_to_other_content_is_refused,
    test_a_link_to_the_same_file_is_followed,
    test_a_longer_file_is_refused,
    test_a_missing_file_is_refused,
    test_a_pipe_in_place_of_a_file_is_refused_without_waiting,
    test_a_tokenizer_over_64_mib_is_refused,
    test_a_truncated_file_is_refused,
    test_a_truncated_file_with_a_matching_hash_is_refused,
    test_an_emptied_file_is_refused,
    test_another_hash_in_the_manifest_is_refused,
    test_another_size_in_the_manifest_is_refused,
    test_bytes_behind_the_json_are_refused,
    test_two_files_swapped_are_refused,
)
from tests.runtime.test_hostile_tables import (
    test_a_missing_table_is_refused,
    test_a_table_of_an_odd_name_is_refused_in_one_line,
    test_a_table_of_another_shape_or_type_is_refused,
    test_a_table_of_the_largest_values_opens,
    test_a_table_of_values_that_are_no_numbers_to_compute_with_is_refused,
)
from tests.runtime.test_hostile_weights import (
    test_a_damaged_program_that_speaks_of_locations_is_refused,
    test_a_program_that_takes_weights_from_a_file_that_is_not_listed_is_refused,
    test_every_weights_file_is_refused_when_its_header,
    test_metadata_of_weights_that_is_only_unusual_is_ignored,
    test_weights_are_refused_when_their_header,
)

from .library import Library, has_backend

__all__ = [
    "impatient",
    "test_a_damaged_file_of_a_bundle_of_prompts_is_refused",
    "test_a_damaged_program_that_speaks_of_locations_is_refused",
    "test_a_directory_in_place_of_a_file_is_refused",
    "test_a_flipped_bit_anywhere_in_the_weights_is_refused",
    "test_a_flipped_bit_in_any_file_is_refused",
    "test_a_link_to_a_pipe_or_a_folder_is_refused",
    "test_a_link_to_other_content_is_refused",
    "test_a_link_to_the_same_file_is_followed",
    "test_a_longer_file_is_refused",
    "test_a_manifest_of_prompts_that_lies_is_refused",
    "test_a_manifest_of_version_1_that_lies_is_refused",
    "test_a_manifest_over_16_mib_is_refused_unread",
    "test_a_manifest_that_is_not_its_json_is_refused",
    "test_a_manifest_that_lies_is_refused",
    "test_a_missing_file_is_refused",
    "test_a_missing_table_is_refused",
    "test_a_pipe_in_place_of_a_file_is_refused_without_waiting",
    "test_a_program_that_takes_weights_from_a_file_that_is_not_listed_is_refused",
    "test_a_table_of_an_odd_name_is_refused_in_one_line",
    "test_a_table_of_another_shape_or_type_is_refused",
    "test_a_table_of_the_largest_values_opens",
    "test_a_table_of_values_that_are_no_numbers_to_compute_with_is_refused",
    "test_a_tokenizer_over_64_mib_is_refused",
    "test_a_truncated_file_is_refused",
    "test_a_truncated_file_with_a_matching_hash_is_refused",
    "test_an_emptied_file_is_refused",
    "test_another_hash_in_the_manifest_is_refused",
    "test_another_size_in_the_manifest_is_refused",
    "test_bytes_behind_the_json_are_refused",
    "test_every_weights_file_is_refused_when_its_header",
    "test_metadata_of_weights_that_is_only_unusual_is_ignored",
    "test_two_files_swapped_are_refused",
    "test_weights_are_refused_when_their_header",
]  # fmt: skip

SODA_BUNDLE_VERSION = 101


def test_another_version_has_a_status_of_its_own(library: Library, folder: Path) -> None:
    edit_manifest(folder, put("version", value=9))
    with pytest.raises(BundleError, match="format version 9, this runtime reads 1 to 5") as caught:
        library.open(folder)
    assert caught.value.status == SODA_BUNDLE_VERSION  # type: ignore[attr-defined]


@pytest.mark.parametrize("change", TRUTHS.values(), ids=TRUTHS.keys())
def test_a_manifest_that_is_only_unusual_is_no_lie(
    library: Library, folder: Path, change: Callable[[Json], object]
) -> None:
    """What is refused later is the files: a table or a weights file that the copy does not have."""
    edit_manifest(folder, change)
    verdicts = []
    for opened in (library.open, Bundle.open):
        try:
            opened(folder, backend="null")  # type: ignore[operator]
        except BundleError as error:
            verdicts.append(Path(str(error).partition(":")[0]).name)
        else:
            verdicts.append("opened")
    assert verdicts[0] == verdicts[1] != "manifest.json"


def test_a_byte_order_mark_is_refused(folder: Path, refuses: Callable[[Path, str], None]) -> None:
    text = (folder / "manifest.json").read_bytes()
    (folder / "manifest.json").write_bytes(b"\xef\xbb\xbf" + text)
    refuses(folder, "manifest.json")


def test_sizes_that_the_engines_do_not_have_are_engine_errors(library: Library, folder: Path) -> None:
    if not has_backend("ort"):
        pytest.skip("the backend ort has not been built; `make cpp` says why")

    def widen(manifest: Json) -> None:
        for slot in manifest["slots"]:
            slot["shape"] = [1 << 20, 1 << 14]
        manifest["arena"]["bytes"] = 6 << 37
        for step in manifest["steps"]:
            for key in ("read_offsets", "write_offsets"):
                step[key] = [offset // 2048 << 37 for offset in step[key]]

    text = (folder / "manifest.json").read_bytes()
    for change in (
        put("model", "latent_shape", value=[1 << 11] * 3), widen, put("tensors", 0, "shape", value=[1 << 17, 1 << 17]),
    ):  # fmt: skip
        (folder / "manifest.json").write_bytes(text)
        edit_manifest(folder, change)
        with pytest.raises(EngineError, match="rebuild the bundle"):
            library.open(folder, threads=1).session().start(labels=[1])
        with pytest.raises(EngineError, match="rebuild the bundle"):
            Bundle.open(folder, threads=1).session().start(1)


def test_remembered_hashes_are_shared_by_both_runtimes(library: Library, folder: Path) -> None:
    weights = folder / "weights.safetensors"
    for first, second in ((Bundle.open, library.open), (library.open, Bundle.open)):
        memory = folder.parent / "cache" / "soda_runtime" / "verified.json"
        memory.unlink(missing_ok=True)
        first(folder, backend="null")  # type: ignore[operator]
        written = memory.read_text()
        assert str(weights.resolve()) in written
        second(folder, backend="null")  # type: ignore[operator]
        assert memory.read_text() == written
    flip_bit(weights, -1)
    with pytest.raises(BundleError):
        library.open(folder, backend="null")
