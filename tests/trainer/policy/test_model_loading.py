"""Loading models and tokenizers by name, and the errors for those that cannot be used."""

import ast
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
    PhiForCausalLM,
    PreTrainedTokenizerFast,
)

import skyrl_train
from skyrl_core.errors import SkyrlError
from skyrl_train.checkpoints import model_export
from skyrl_train.commands import eval as eval_command
from skyrl_train.commands.serve import main as serve
from skyrl_train.config.load_config import resolve_run
from skyrl_train.config.schema import ModelOptions, RunConfig
from skyrl_train.data.prompt_tokens import LIMITS, ModelLimits
from skyrl_train.environments.load_environment import load_environment
from skyrl_train.policy.model_loading import (
    end_tokens,
    load_config,
    load_model,
    load_tokenizer,
    model_limits,
    resolve_model,
    tokenizer_files,
)
from skyrl_train.policy.policy import Policy, Sequences
from skyrl_train.policy.prompts.shared_prompts import can_share_prompts
from skyrl_train.tiny_model import TINY_MODEL

SIZES = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.fixture
def saved(tmp_path):
    def save(model):
        torch.manual_seed(0)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.save_pretrained(tmp_path / "model")
        return str(tmp_path / "model")

    return save


def test_tiny_is_the_shipped_model_even_if_a_folder_has_that_name(tmp_path, monkeypatch):
    (tmp_path / "tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_model("tiny") == str(TINY_MODEL)


def test_a_tilde_is_expanded_and_a_hub_name_is_unchanged(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    assert resolve_model("~/mine") == str(tmp_path / "mine")
    assert resolve_model("Qwen/Qwen2.5-0.5B") == "Qwen/Qwen2.5-0.5B"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_are_loaded_from_the_file_in_the_requested_dtype(dtype):
    model = load_model("tiny", dtype)
    assert {parameter.dtype for parameter in model.parameters()} == {dtype}
    assert not model.training
    # The file is bfloat16, so float32 holds its values exactly.
    stored = AutoModelForCausalLM.from_pretrained(str(TINY_MODEL), dtype=torch.bfloat16)
    for ours, theirs in zip(model.parameters(), stored.parameters(), strict=True):
        assert torch.equal(ours, theirs.to(dtype))


@pytest.mark.parametrize(
    "model",
    [
        LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, attention_dropout=0.5)),
        GPT2LMHeadModel(GPT2Config(vocab_size=40, n_embd=16, n_layer=2, n_head=2, attn_pdrop=0.5, resid_pdrop=0.5)),
    ],
    ids=["llama", "gpt2"],
)
def test_training_mode_applies_no_dropout(saved, model):
    # Gradient checkpointing needs training mode; with dropout, the ratio of two passes would be noise.
    loaded = load_model(saved(model), torch.float32)
    ids = torch.arange(12)[None]
    expected = loaded(ids).logits
    loaded.train()
    torch.testing.assert_close(loaded(ids).logits, expected)


@pytest.mark.parametrize("cap", [1.0, 50.0])  # a logit that new weights reach, and one far above
def test_a_model_with_soft_capped_logits_is_refused(saved, cap):
    path = saved(Gemma2ForCausalLM(Gemma2Config(**SIZES, **HEADS, head_dim=8, final_logit_softcapping=cap)))
    with pytest.raises(SkyrlError, match=r"changes its logits .* choose another architecture"):
        load_model(path, torch.float32)


def test_a_head_of_zeros_is_not_mistaken_for_a_cap(saved):
    model = LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS))
    torch.nn.init.zeros_(model.lm_head.weight)
    load_model(saved(model), torch.float32)


def test_a_model_whose_output_embedding_has_a_bias_is_refused(saved):
    path = saved(PhiForCausalLM(PhiConfig(**SIZES, num_attention_heads=2)))
    with pytest.raises(SkyrlError, match="no output embedding without bias"):
        load_model(path, torch.float32)


def test_log_probs_of_an_accepted_model_match_its_logits(saved):
    model = load_model(saved(LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS))), torch.float32)
    ids = torch.arange(3, 10)[None]
    sequences = Sequences(
        input_ids=ids,
        attention_mask=torch.ones_like(ids, dtype=torch.bool),
        response_start=torch.tensor([1]),
        response_mask=torch.ones(1, 6, dtype=torch.bool),
    )
    with torch.no_grad():
        log_probs, _ = Policy(model, chunk_size=4, temperature=1.0).log_probs(sequences, False)
        expected = torch.log_softmax(model(ids).logits[0, :-1], -1).gather(-1, ids[0, 1:, None])[:, 0]
    torch.testing.assert_close(log_probs[0], expected)


@pytest.mark.parametrize("load", [load_tokenizer, lambda name: load_model(name, torch.float32)])
@pytest.mark.parametrize("content", [None, "{", json.dumps({"model_type": "no_such_architecture"})])
def test_a_loading_error_names_the_model_and_the_remedy(tmp_path, load, content):
    folder = tmp_path / "broken"
    folder.mkdir()
    if content is not None:
        (folder / "config.json").write_text(content)
    with pytest.raises(SkyrlError, match=r"cannot load the (model|tokenizer)") as error:
        load(str(folder))
    assert str(folder) in str(error.value)
    assert "set model to `tiny`, a folder" in str(error.value)


def test_a_truncated_weights_file_is_an_error(saved):
    path = saved(LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS)))
    weights = f"{path}/model.safetensors"
    with open(weights, "rb+") as file:
        file.truncate(2000)
    with pytest.raises(SkyrlError, match="cannot load the model of model"):
        load_model(path, torch.float32)


def saved_tokenizer(folder, **special):
    model = WordLevel({"a": 0, "b": 1, "</s>": 2, "?": 3}, unk_token="?")
    PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), **special).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("pad", [{}, {"pad_token": "<added>"}], ids=["none", "beyond the vocabulary"])
def test_the_padding_token_always_has_an_embedding(tmp_path, pad):
    tokenizer = load_tokenizer(saved_tokenizer(tmp_path, eos_token="</s>", **pad))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2


def test_a_tokenizer_without_an_end_token_is_refused(tmp_path):
    with pytest.raises(SkyrlError, match="has no eos token"):
        load_tokenizer(saved_tokenizer(tmp_path))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_is_the_configured_one_and_only_sdpa_shares_prompts(attention):
    model = load_model("tiny", torch.float32, ModelOptions(attention=attention))
    assert model.config._attn_implementation == attention
    assert can_share_prompts(model) is (attention == "sdpa")
    ids = torch.arange(12)[None]
    plain = load_model("tiny", torch.float32)(input_ids=ids).logits
    torch.testing.assert_close(model(input_ids=ids).logits, plain, rtol=1e-4, atol=1e-4)


TRUSTED = ModelOptions(trust_remote_code=True)
CODE = """
open({marker!r}, "w").close()
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

class Config(Qwen2Config):
    model_type = "stranger"

class Model(Qwen2ForCausalLM):
    config_class = Config

class Words(PreTrainedTokenizerFast):
    pass
"""


@pytest.fixture
def stranger(tmp_path):
    """A model folder whose configuration, model and tokenizer come as Python code, which leaves the file `ran`."""
    folder = tmp_path / "stranger"
    shutil.copytree(TINY_MODEL, folder)
    (folder / "words.py").write_text(CODE.format(marker=str(tmp_path / "ran")))
    for name, entries in (
        ("config.json", {"AutoConfig": "words.Config", "AutoModelForCausalLM": "words.Model"}),
        ("tokenizer_config.json", {"AutoTokenizer": [None, "words.Words"]}),
    ):
        content = json.loads((folder / name).read_text()) | {"auto_map": entries, "model_type": "stranger"}
        (folder / name).write_text(json.dumps(content | {"tokenizer_class": "Words"} if "token" in name else content))
    return folder


LOADERS = {
    "configuration": load_config,
    "tokenizer": load_tokenizer,
    "model": lambda name, options=None: load_model(name, torch.float32, options),
}


@pytest.mark.parametrize("part", LOADERS)
def test_the_code_of_a_model_runs_only_if_the_configuration_says_so(stranger, tmp_path, part):
    with pytest.raises(SkyrlError, match=r"set model_options\.trust_remote_code=true"):
        LOADERS[part](str(stranger))
    assert not (tmp_path / "ran").exists()
    assert type(LOADERS[part](str(stranger), TRUSTED)).__module__.endswith("words")
    assert (tmp_path / "ran").exists()


def test_a_run_folder_cannot_permit_the_code_of_its_model(stranger, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    file, permit = run / "config.yaml", "model_options.trust_remote_code=true"
    file.write_text(f"model: {stranger}\nmodel_options: {{trust_remote_code: true}}\n")

    def evaluated(*overrides):
        return eval_command._resolve(eval_command._parser().parse_args([str(run), *overrides])).config

    def resumed(*overrides, files=()):
        return resolve_run(load_environment, files=files, overrides=overrides, resume=str(run)).config

    permitted = [evaluated(), resumed(), model_export._config(file, trust_remote_code=False)]
    assert [config.model_options.trust_remote_code for config in permitted] == [False] * 3
    permitted = [evaluated(permit), resumed(permit), resumed(files=[file])]
    assert [config.model_options.trust_remote_code for config in permitted] == [True] * 3


def test_vllm_gets_the_same_permission(capsys):
    from skyrl_train.rollout.vllm.engine import _arguments

    assert serve(["--dry-run", "model=tiny"]) == 0
    assert "--trust-remote-code" not in capsys.readouterr().out
    assert serve(["--dry-run", "model=tiny", "model_options.trust_remote_code=true"]) == 0
    assert "--trust-remote-code" in capsys.readouterr().out
    given = []

    def engine_arguments(**arguments):
        given.append(arguments)
        return SimpleNamespace(create_model_config=lambda: SimpleNamespace(max_model_len=512))

    for trusted in (False, True):
        config = RunConfig.model_validate({"model": "tiny", "model_options": {"trust_remote_code": trusted}})
        setup = SimpleNamespace(config=config, model="tiny", device=torch.device("cpu"))
        assert _arguments(setup, SimpleNamespace(EngineArgs=engine_arguments))["trust_remote_code"] is trusted
    assert [arguments["trust_remote_code"] for arguments in given] == [False, True]


def test_no_other_module_reads_the_files_of_a_model_with_transformers():
    found = {
        (file.name, ast.unparse(call.func), ast.unparse(call.keywords[-1].value.func) if call.keywords else "")
        for file in Path(skyrl_train.__file__).parent.rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call)
        and ast.unparse(call.func).endswith((".from_pretrained", ".from_config", "pipeline"))
    }
    assert found == {
        ("model_loading.py", "AutoConfig.from_pretrained", "_source"),
        ("model_loading.py", "AutoTokenizer.from_pretrained", "_source"),
        ("model_loading.py", "AutoModelForCausalLM.from_pretrained", "_settings"),
    }


def test_the_files_of_a_tokenizer_are_found_in_a_folder_and_in_the_cache_of_the_hub(tmp_path, monkeypatch):
    assert set(tokenizer_files("tiny")) == {"tokenizer.json", "tokenizer_config.json", "chat_template.jinja"}
    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--me--model"
    snapshot = repository / "snapshots" / commit
    shutil.copytree(TINY_MODEL, snapshot)
    for name in ("additional_chat_templates/tools.jinja", "words.py", "weights.bin", "spiece.model"):
        (snapshot / name).parent.mkdir(exist_ok=True)
        (snapshot / name).touch()
    (repository / "refs").mkdir()
    for revision in ("main", "v1"):
        (repository / "refs" / revision).write_text(commit)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    found = tokenizer_files("me/model", ModelOptions(revision="v1"))
    assert found.keys() == tokenizer_files("me/model").keys()
    assert found.keys() == tokenizer_files("tiny").keys() | {"additional_chat_templates/tools.jinja", "spiece.model"}
    assert "words.py" in tokenizer_files("me/model", TRUSTED)
    with pytest.raises(SkyrlError, match="no longer in the cache"):
        tokenizer_files("me/other")


MULTIMODAL = {
    "llava": {"text_config": {"model_type": "llama"}},
    "qwen2_vl": {},
    "qwen2_audio": {},
    "mistral3": {},
}


@pytest.mark.parametrize("load", [load_tokenizer, lambda name: load_model(name, torch.float32)])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        *((kind, rf"\({kind}\) is multimodal: it has a part for each of .*text.*text model") for kind in MULTIMODAL),
        ("t5", r"\(t5\) has an encoder"),
        ("whisper", r"\(whisper\) has an encoder"),
        ("vit", r"\(vit\) is no causal language model"),
    ],
)  # fmt: skip
def test_a_model_of_another_kind_is_named_before_anything_is_loaded(tmp_path, load, kind, message):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind, **MULTIMODAL.get(kind, {})}))
    with pytest.raises(SkyrlError, match=message):
        load(str(tmp_path))


def test_missing_weights_are_an_error_and_not_random_numbers(saved):
    from transformers import LlamaForSequenceClassification

    path = saved(LlamaForSequenceClassification(LlamaConfig(**SIZES, **HEADS, pad_token_id=0)))
    with pytest.raises(SkyrlError, match=r"lack weights .*: lm_head\.weight .*hold LlamaForSequenceClassification"):
        load_model(path, torch.float32)


CHATML = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    ("template", "ends"),
    [
        (CHATML, {"<eos>", "<|im_end|>"}),
        (CHATML.replace("<|im_end|>", " <|im_end|>"), {"<eos>", "<|im_end|>"}),
        (CHATML.replace("<|im_end|>", ""), {"<eos>"}),
        (CHATML.replace("<|im_end|>", "</s>"), {"<eos>"}),  # text
        ("{{ raise_exception('no') }}", {"<eos>"}),
        (None, {"<eos>"}),
    ],
)
def test_the_end_of_a_turn_in_the_chat_template_ends_a_response(template, ends):
    tokenizer = load_tokenizer("tiny")
    tokenizer.add_tokens(["<|im_start|>", "<|im_end|>"], special_tokens=True)
    tokenizer.chat_template = template
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=None))
    assert set(tokenizer.convert_ids_to_tokens(end_tokens(model, tokenizer))) == ends


def test_the_limits_of_a_model_are_those_of_its_configuration(tmp_path):
    assert vars(load_tokenizer("tiny"))[LIMITS] == ModelLimits(positions=1024, vocabulary=448)
    config = LlamaConfig(**SIZES, **HEADS, max_position_embeddings=64)
    config.rope_parameters = {
        "rope_type": "yarn",
        "rope_theta": 1e4,
        "factor": 4.0,
        "original_max_position_embeddings": 64,
    }
    config.save_pretrained(tmp_path / "yarn")
    assert model_limits(str(tmp_path / "yarn")) == ModelLimits(positions=256, vocabulary=40)
    assert model_limits(str(tmp_path / "nothing")) == ModelLimits()
