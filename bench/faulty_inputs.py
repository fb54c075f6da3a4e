"""What the verbs of `bench.reliability` read: a log, a tiny model, its trained run, a bundle, an asset on a server."""

import hashlib
import http.server
import io
import os
import signal
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from delrec_lite.hub.registry import ASSETS, Asset, File, Mirror

ASSET = "tiny-asset"
ITEMS, USERS = 30, 24
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
RECIPE = """name: tiny
data: {folder: data/shop}
model: {base: ./base, soft_tokens: 3, max_history: 10, precision: fp32}
teacher: {settings: {epochs: 2, hidden: 8, max_length: 8}}
distill: {epochs: 0.3, tokens_per_step: 100}
finetune: {epochs: 0.6, tokens_per_step: 100, rank: 2}
export: {quant: f16, score_correlation: 0.5}
"""


def write_inputs(folder: Path, model: bool, run: Callable[..., None]) -> None:
    """Fill the folder in which the verbs run.

    Args:
        folder: Created.
        model: Also a tiny model, its trained run and its bundle.
        run: Runs a command in it.
    """
    folder.mkdir()
    titles = [f"Lamp {n} of {maker}" for n, maker in enumerate(["Oak", "Ash", "Elm"] * (ITEMS // 3))]
    items = "".join(f"i{n},{title}\n" for n, title in enumerate(titles))
    (folder / "items.csv").write_text("item_id,title\n" + items, encoding="utf-8")
    (folder / "new.csv").write_text("item_id,title\nn1,Lamp of Beech\nn2,Lamp of Fir\n", encoding="utf-8")
    rng = np.random.default_rng(7)
    walks = zip(rng.integers(0, ITEMS, USERS), rng.integers(10, 20, USERS), strict=True)
    rows = [f"u{u},i{(s + n) % ITEMS},{1000 * u + n}\n" for u, (s, length) in enumerate(walks) for n in range(length)]
    (folder / "log.csv").write_text("user_id,item_id,timestamp\n" + "".join(rows), encoding="utf-8")
    (folder / "tiny.yaml").write_text(RECIPE, encoding="utf-8")
    for name in ("cache", "bundles", "runs"):
        (folder / name).mkdir()
    prepare = ("--interactions", "log.csv", "--items", "items.csv", "--k-core", "1", "--candidates", "4")
    run("prepare", "shop", *prepare, "--out", "data/shop")
    if not model:
        return
    _write_base(folder / "base", titles)
    run("train", "tiny.yaml", "--runs", "trained")
    run("export", "tiny.yaml", "--runs", "trained", "--out", "bundles/shop.delrec")


def _write_base(folder: Path, titles: list[str]) -> None:
    """A Llama of two layers with random weights, and its tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=320, special_tokens=SPECIALS, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([f" {title}" for title in titles], trainer)
    folder.mkdir()
    tokenizer.save(str(folder / "tokenizer.json"))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=tokenizer.get_vocab_size(),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=True,
        initializer_range=0.15,
    )
    LlamaForCausalLM(config).save_pretrained(folder)


@contextmanager
def serve_asset() -> Iterator[Callable[[], None]]:
    """A server of this machine, in its own process; yields what registers its asset in this one."""
    data = {"small.json": b'{"a": 1}', "big.bin": bytes(range(256)) * 8000}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in data.items():
            archive.writestr(zipfile.ZipInfo(name), content)
    whole = buffer.getvalue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # noqa: N802 - the library's name
            start = int(self.headers.get("Range", "bytes=0-")[6:-1])
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(whole) - start))
            self.end_headers()
            self.wfile.write(whole[start:])

        def log_message(self, *_: object) -> None:
            """Prints nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    child = os.fork()
    if child == 0:
        server.serve_forever()
    server.socket.close()
    files = tuple(File(name, hashlib.sha256(content).hexdigest(), len(content)) for name, content in data.items())
    address = f"http://127.0.0.1:{server.server_port}/asset.zip"
    mirror = Mirror("here", "zip", address, files, hashlib.sha256(whole).hexdigest(), len(whole))

    def register() -> None:
        ASSETS[ASSET] = Asset(ASSET, "model", "CC0", "http://127.0.0.1", (mirror,))

    try:
        yield register
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        ASSETS.pop(ASSET, None)
