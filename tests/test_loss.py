"""The chunked loss against transformers' own, on plain models and on those that scale or cap their logits."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from transformers import masking_utils

from harness.data.batches import collate
from harness.data.tokenize import Example
from harness.loss import label_loss_sum
from tests.conftest import attached, examples


@pytest.mark.parametrize("chunk", [None, 7, 1])
def test_loss_and_gradients_equal_the_models_own(model: Any, chunk: int | None) -> None:
    """Against `model(labels=…)` on right-padded rows with a mask: other code for the loss, the logits and the padding.

    Gradients are compared as a whole: chunks are summed in another order.
    """
    model.double()
    batch = examples(5)
    ids, labels = collate(batch, pad=1, device="cpu")
    wanted = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, e in enumerate(batch):
        wanted[row, e.prompt : len(e.ids)] = ids[row, e.prompt : len(e.ids)]
        mask[row, : len(e.ids)] = 1
    count = sum(len(e.ids) - e.prompt for e in batch)
    with attached(model, "full") as handle:
        reference = model(input_ids=ids, attention_mask=mask, labels=wanted).loss * count
        reference.backward()
        expected = {n: p.grad.clone() for n, p in handle.trainable().items()}
        model.zero_grad()
        loss = label_loss_sum(model, ids, labels, chunk=chunk)
        loss.backward()
        assert loss.dtype == torch.float64
        torch.testing.assert_close(loss.float(), reference, rtol=1e-6, atol=0)  # transformers takes its loss in fp32
        for n, p in handle.trainable().items():
            torch.testing.assert_close(p.grad, expected[n], rtol=1e-5, atol=1e-6 * float(expected[n].abs().max()))


def test_accelerators_get_widths_of_64_with_the_same_loss(model: Any, monkeypatch: Any) -> None:
    """The same tokens are labels, and the loss is that of the narrow batch."""
    monkeypatch.setattr("harness.data.batches._to", lambda tensor, device: tensor)
    model.double()
    batch = examples(7)
    narrow, labels = collate(batch, 1, "cpu")
    wide, moved = collate(batch, 1, "cuda:0")
    assert narrow.shape[1] == max(len(e.ids) for e in batch)
    assert wide.shape == (7, 64)
    full, _ = collate([Example(tuple(range(128)), 3)], 1, "cuda")
    assert full.shape == (1, 128)
    assert torch.equal(wide.flatten()[moved], narrow.flatten()[labels])
    assert torch.equal(wide[:, : narrow.shape[1]], narrow)
    with torch.no_grad():
        torch.testing.assert_close(
            label_loss_sum(model, wide, moved), label_loss_sum(model, narrow, labels), rtol=1e-12, atol=0
        )


def test_loss_is_that_of_transformers_looking_for_packed_rows(model: Any, monkeypatch: Any) -> None:
    """Bit for bit; and it is there again for other callers, after an error too."""
    looks = masking_utils.find_packed_sequence_indices
    ids, labels = collate(examples(5), pad=1, device="cpu")
    loss = label_loss_sum(model, ids, labels)
    with pytest.raises(IndexError):
        label_loss_sum(model, ids + 10**6, labels)
    assert masking_utils.find_packed_sequence_indices is looks
    monkeypatch.setattr("harness.loss._unpacked_rows", nullcontext)
    assert torch.equal(label_loss_sum(model, ids, labels), loss)


def test_padding_is_masked_by_position(model: Any) -> None:
    """With pad id == EOS id every EOS that belongs to a text is still a label, and no pad is."""
    batch = examples(6)
    ids, labels = collate(batch, pad=0, device="cpu")
    width = ids.shape[1]
    expected = [(row, t) for row, e in enumerate(batch) for t in range(e.prompt, len(e.ids))]
    assert [(p // width, p % width) for p in labels.tolist()] == expected
    other, same = collate(batch, pad=1, device="cpu")
    assert torch.equal(labels, same)
    with torch.no_grad():
        assert label_loss_sum(model, ids, labels) == label_loss_sum(model, other, labels)


SIZES = {"vocab_size": 64, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "head_dim": 8}
SIZES |= {"num_attention_heads": 2, "num_key_value_heads": 1}


@pytest.mark.parametrize(
    ("kind", "settings", "scaled"),
    [
        ("Gemma2", {"final_logit_softcapping": 30.0}, True),  # far above a random model's logits
        ("Gemma2", {"final_logit_softcapping": None}, False),
        ("Granite", {"logits_scaling": 8.0}, True),
        ("Granite", {"logits_scaling": 1.0}, False),
        ("Cohere", {"logit_scale": 0.0625}, True),
        ("MiniCPM3", {"dim_model_base": 4, "num_key_value_heads": 2}, True),
        ("OPT", {"word_embed_proj_dim": 16, "ffn_dim": 16}, False),
        ("Qwen3", {}, False),
        ("Llama", {}, False),
        ("Qwen2", {}, False),
        ("Mistral", {}, False),
    ],
)
def test_the_loss_is_every_architectures_own(kind: str, settings: dict[str, Any], scaled: bool) -> None:
    """Loss and gradients in fp64, in chunks too, also where the model does more than its bare head does.

    Asserts first that `scaled` models are indeed another function than states times head.
    """
    import transformers

    torch.manual_seed(0)
    if not hasattr(transformers, f"{kind}Config"):
        pytest.skip(f"this transformers has no {kind}")
    config = getattr(transformers, f"{kind}Config")(**(SIZES | settings))
    model = getattr(transformers, f"{kind}ForCausalLM")(config).eval().double()
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(200)  # logits large enough for a cap to show
    ids, labels = torch.randint(3, 60, (2, 12)), torch.cat([torch.arange(1, 12), torch.arange(13, 24)])
    logits, states = model(input_ids=ids).logits, model.get_decoder()(input_ids=ids).last_hidden_state
    assert torch.allclose(logits, model.get_output_embeddings()(states)) is not scaled
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    gradients = torch.autograd.grad(expected, list(model.parameters()), allow_unused=True)
    for chunk in (None, 5):
        loss = label_loss_sum(model, ids, labels, chunk=chunk)
        torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)  # some norms and softmaxes are always fp32
        for ours, own in zip(
            torch.autograd.grad(loss, list(model.parameters()), allow_unused=True), gradients, strict=True
        ):
            if own is not None:
                torch.testing.assert_close(ours, own, rtol=1e-4, atol=1e-9)
    assert "forward" not in model.get_decoder().__dict__  # the model is as it was
