"""What the figures show, against other implementations, and the gallery that collects them."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import pywt
import torch
from typer.testing import CliRunner

import numeric.figures.gallery as gallery
from numeric.commands.app import app
from numeric.data import ImageSet
from numeric.daubechies import cascade, unit_sum, vanishing_moments
from numeric.evaluation.sweep import noise_like
from numeric.figures.conditioning import HermiteConfig, gram_conditions
from numeric.figures.denoised import DenoisedConfig
from numeric.figures.illustrations import FamiliesConfig, band_snr, families_drawn, mallat_grid, monomial_text
from numeric.fingerprint import code_hash, imports, meaning, modules_behind
from numeric.noise import ve
from numeric.scores.own import WaveletScore
from numeric.scores.tables import monomials
from numeric.wavelets import WaveletTransform

matplotlib.use("Agg")


# ----- Figures 1 to 4 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wavelet", ["db2", "db3", "db4", "sym4"])
def test_cascade_against_pywavelets(wavelet):
    """PyWavelets iterates from a delta and tends to phi and psi; ours is exact on the grid, so theirs comes ever closer."""
    errors = []
    for depth in (5, 9):
        theirs = pywt.Wavelet(wavelet).wavefun(level=depth)
        _, phi, psi = cascade(wavelet, depth)
        assert len(theirs[0]) == len(phi)
        apart = [
            min(np.abs(np.roll(a, shift) - b).max() for shift in range(-4, 5)) for a, b in zip(theirs[:2], (phi, psi))
        ]  # their curves may lie some grid steps aside
        errors.append(apart)
    assert all(late < 0.5 * early for early, late in zip(*errors))
    assert max(errors[1]) < 0.06


@pytest.mark.parametrize(("wavelet", "moments"), [("db2", 2), ("db3", 3), ("db4", 4), ("sym5", 5), ("coif1", 2)])
def test_scaling_function_identities(wavelet, moments):
    """Integer translates of phi sum to one at every x; psi has the vanishing moments of its order."""
    x, phi, psi = cascade(wavelet, 8)
    assert np.allclose(unit_sum(phi, 8), 1.0, atol=1e-9)
    assert phi.sum() / 2**8 == pytest.approx(1.0, abs=1e-9)
    assert vanishing_moments(x, psi) == moments
    with pytest.raises(ValueError, match="discontinuous"):
        cascade("haar")


def test_grid_is_the_usual_picture_of_the_transform(generator):
    x = torch.rand(1, 1, 16, 16, generator=generator, dtype=torch.float64)
    transform = WaveletTransform(16, "db2", 2)
    ours = transform.forward(x)[0, 0].numpy()[mallat_grid(transform)]
    pyramid = pywt.wavedec2(x[0, 0].numpy(), "db2", mode="periodization", level=2)
    a, fine = pyramid[0], pyramid[1:]
    for h, v, d in fine:
        a = np.block([[a, v], [h, d]])
    assert np.allclose(ours, a, atol=1e-10)


def test_families_figure_counts(tmp_path):
    """Feature counts of the drawn targets: n + 1; C(n+2, 3) + 1; intercept, powers and pairs with every neighbour."""
    _, record, paths = families_drawn(FamiliesConfig(), tmp_path)
    rows = {(r["family"], r["target"][1] == "A"): r for r in record["targets"]}
    assert [rows["independent", False]["features"][n] for n in (1, 2, 3)] == [2, 3, 4]
    assert [rows["band", False]["features"][n] for n in (1, 2, 3)] == [2, 5, 11]
    assert rows["band", True]["neighbours"] == 0  # scaling atoms take the independent form
    assert rows["local(r=1, pairwise)", False]["features"][3] == 4 + 8 * 6
    assert rows["local(r=2, pairwise)", True]["neighbours"] == 15  # a 5 x 5 ball on a 4 x 4 band wraps onto itself
    assert all(p.exists() for p in paths) and json.loads(paths[-1].read_text())["findings"] == record["findings"]
    assert monomial_text(np.array([2, 1]), ("w", "m")) == r"w^{2}\,m"


def test_band_snr_is_the_variance_of_pywavelets_coefficients(generator):
    images = ImageSet(torch.rand(50, 1, 8, 8, generator=generator))
    bands = band_snr(images, WaveletTransform(8, "db2", 1), batch_size=7)
    theirs = [pywt.dwt2(x[0].double().numpy(), "db2", mode="periodization") for x in images[:]]
    expected = np.var([t[1][1] for t in theirs], axis=0).mean()
    (found,) = [b["variance"] for b in bands if b["orientation"] == "V"]
    assert found == pytest.approx(expected, rel=1e-6)


# ----- Figures 8 to 10 --------------------------------------------------------------------------------------------------


def test_raw_condition_numbers_against_sampled_noise(generator):
    """Condition number of ``E[phi phi^T]`` of raw monomials against the same matrix from drawn noise (equation (9))."""
    x = torch.rand(40, 1, 8, 8, generator=generator, dtype=torch.float64)
    model = WaveletScore("independent", 2, levels=1).fit(ImageSet(x))
    exact = gram_conditions(model, 0.5, 2, "monomial", "raw")
    many = x.repeat(2000, 1, 1, 1)
    w = model.transform_.forward(many + 0.5 * noise_like(many, 7))[:, 0, :6].T
    phi = monomials(w[:, None], model.moments_.blocks[0].plan)
    sampled = torch.linalg.cond(phi @ phi.transpose(1, 2) / phi.shape[2]).numpy()
    assert exact[:6] == pytest.approx(sampled, rel=0.1)
    unit = gram_conditions(model, 0.5, 2, "monomial", "unit")
    assert unit == pytest.approx(model.set_params(ridge=0.0).condition_numbers(0.5, 2).numpy(), rel=1e-6)
    hermite = gram_conditions(model, 0.5, 2, "hermite", "unit")
    assert np.median(hermite) < np.median(unit)


def test_raw_ridge_on_hermite_features_is_ridge_regression(mnist16):
    """Equation (23) with Hermite features: the denoiser's theta is ridge regression on He_k(u) from sampled noise."""
    data = mnist16.take(300)
    model = WaveletScore("independent", 2, basis="hermite", ridge=0.3, ridge_side="denoiser", ridge_scaling="raw").fit(
        data
    )
    solved = model.solve(ve(0.5)).blocks[0]
    many = data[:].double().repeat(200, 1, 1, 1)
    places = [5, 6, 9, 10]  # scaling coefficients in the middle of the image
    v = model.transform_.forward(many + 0.5 * noise_like(many, 3))[:, 0, places]
    w = model.transform_.forward(many)[:, 0, places]
    for column, k in enumerate(places):
        u = (v[:, column] - solved.centre[0, k]) / solved.scale[0, k]
        phi = torch.stack([torch.ones_like(u), u, u**2 - 1])
        gram = phi @ phi.T / len(u) + 0.3 * torch.eye(3, dtype=u.dtype)
        products = phi * w[:, column]
        sampled = torch.linalg.solve(gram, products.mean(1))
        error = products.std(1) / len(u) ** 0.5 / 1.3
        assert ((solved.theta[k] - sampled).abs() < 6 * error).all()
        assert error[:2].max() < 0.02 * solved.theta[k, :2].abs().max()  # tight enough to tell the conventions apart


def test_bad_parameters_of_figures_are_named():
    with pytest.raises(ValueError, match="ridge must be > 0"):
        HermiteConfig(ridge=0.0)
    with pytest.raises(ValueError, match="n_images <= n_eval"):
        DenoisedConfig(n_images=5, n_eval=2)


# ----- the gallery ------------------------------------------------------------------------------------------------------

CODE = """import json
from pathlib import Path

from numeric.results import provenance, write_json
Path(output).mkdir(exist_ok=True)
if fail:
    raise ValueError("asked to <fail>")
record = {"findings": [f"value {value} <b>& more</b>"], "data": {"fit": {"source": "a & b", "count": 5, "sha256": "0" * 64}}}
write_json(Path(output) / "NAME.json", {**provenance("cmd", 3), **record})
"""


def make_notebook(folder: Path, name: str, value: int = 1) -> None:
    cells = [
        {"cell_type": "markdown", "id": "a", "metadata": {}, "source": [f"# Title of {name} <i>"]},
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "b",
            "metadata": {"tags": ["parameters"]},
            "outputs": [],
            "source": [f'value = {value}\noutput = "out"\nfail = False'],
        },
        {
            "cell_type": "code",
            "execution_count": None,
            "id": "c",
            "metadata": {},
            "outputs": [],
            "source": [CODE.replace("NAME", name)],
        },
    ]
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.ipynb").write_text(json.dumps(content))


@pytest.fixture
def quick(monkeypatch, tmp_path):
    """A folder of two small notebooks; executions counted, the kernel's work done without a kernel."""
    for name in ("fig2", "fig10"):
        make_notebook(tmp_path / "notebooks", name)
    ran = []

    def execute(notebook, parameters, output, work, threads):
        ran.append(notebook.name)
        values = {"value": 1, "fail": False, **parameters, "output": str(output)}
        try:
            exec(notebook.sources()[1], values)
        except ValueError as error:
            return {"ok": False, "seconds": 0.0, "files": [], "message": str(error)}
        return {"ok": True, "seconds": 0.0, "files": [f"{notebook.name}.json"], "message": ""}

    monkeypatch.setattr(gallery, "execute", execute)
    monkeypatch.setattr(gallery, "data_identity", lambda: "data")
    return tmp_path, ran


def run(folder: Path, *arguments: str):
    places = ["--notebooks", folder / "notebooks", "--output", folder / "out", "--work", folder / "work"]
    return CliRunner().invoke(app, ["figures", *arguments, *map(str, places)])


class Page(HTMLParser):
    """Collects tags, links and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [v for k, v in attrs if k in ("href", "src")]

    def handle_data(self, data):
        self.text += data


def test_gallery_runs_only_what_changed(quick):
    folder, ran = quick
    assert run(folder).exit_code == 0 and ran == ["fig2", "fig10"]  # by number, not by letter
    assert run(folder).exit_code == 0 and len(ran) == 2
    run(folder, "--only", "fig10", "--force")
    assert ran[2:] == ["fig10"]
    run(folder, "--parameters", "fig2: {value: 7}")
    assert ran[3:] == ["fig2"] and "value 7" in (folder / "out" / "fig2.json").read_text()
    run(folder, "--parameters", "fig2: {value: 7}")
    assert len(ran) == 4
    make_notebook(folder / "notebooks", "fig10", value=2)  # its source changed
    run(folder, "--parameters", "fig2: {value: 7}")
    assert ran[4:] == ["fig10"]
    (folder / "out" / "fig10.json").unlink()  # its result is gone
    run(folder, "--parameters", "all: {value: 7, unheard_of: 1}")
    assert ran[5:] == ["fig10"]


def test_gallery_goes_on_after_a_failure_and_says_so(quick):
    folder, ran = quick
    result = run(folder, "--parameters", "fig2: {fail: true}")
    assert result.exit_code == 1 and ran == ["fig2", "fig10"] and "failed: fig2" in result.output
    page = Page((folder / "out" / "index.html").read_text())
    assert "asked to <fail>" in page.text and "Title of fig10" in page.text
    assert run(folder).exit_code == 0 and ran[2:] == ["fig2"]  # a failed one is run again


def test_gallery_page_escapes_and_links(quick):
    folder, _ = quick
    run(folder)
    (folder / "out" / "fig2.png").write_bytes(b"png")
    rows = [{"claim": "<script>", "verdict": "holds", "value": 0.123456, "nested": {"a": 1}}]
    (folder / "out" / "claims.json").write_text(json.dumps({"findings": ["x < y"], "claims": rows}))
    run(folder, "--page-only")
    page = Page((folder / "out" / "index.html").read_text())
    assert "b" not in page.tags and "script" not in page.tags and "i" not in page.tags
    assert "value 1 <b>& more</b>" in page.text and "5 of a & b" in page.text and "seed 3" in page.text
    assert "<script>" in page.text and "0.1235" in page.text and "nested" not in page.text
    assert {"fig2.png", "fig2.json", "fig10.json", "claims.json"} <= set(page.links)
    assert not [link for link in page.links if link.startswith(("/", "http"))]
    assert all((folder / "out" / link).exists() for link in page.links if not link.startswith("#"))


def test_gallery_names_bad_input(quick):
    folder, _ = quick
    assert "no notebook 'fig3'" in run(folder, "--only", "fig3").output
    assert "has no parameter" in " ".join(run(folder, "--parameters", "fig2: {sise: 1}").output.split())
    assert run(folder, "--parameters", "fig3: {value: 1}").exit_code == 2


def test_fingerprint_follows_imports_and_ignores_comments():
    behind = modules_behind(["numeric.figures.fig5"])
    assert {"numeric.figures.fig5", "numeric.scores.moments", "numeric.wavelets", "numeric.baselines.linear"} <= set(behind)
    assert "numeric.figures.fig11" not in behind
    assert imports("import os\nfrom numeric.noise import ve") == {"numeric.noise", "numeric.noise.ve"}
    assert meaning('def f():\n    """Doc."""\n    return 1  # note') == meaning("def f():\n    return 1\n")
    assert meaning("x = 1") != meaning("x = 2")
    assert code_hash("numeric.noise") != code_hash("numeric.scores.families")
