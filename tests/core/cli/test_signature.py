"""`skyrl losses signature`: the chart, the picture, the numbers and the exit codes."""

import json
import math
import xml.etree.ElementTree as ElementTree

import pytest

from skyrl_core.cli.main import main
from skyrl_core.cli.signature import describe_curve
from skyrl_core.registry.loss_registry import load_policy_loss
from skyrl_core.signature.axis import bounds, linear_ticks, number, ratio_ticks, scaled, weight_range
from skyrl_core.signature.measure import Curve, measure_signature
from skyrl_core.signature.svg_chart import svg
from skyrl_core.signature.text_chart import HEIGHT, chart

BROKEN = """
from skyrl_core import PolicyLoss, TokenLosses
from skyrl_core.parameters.loss_params import LossParams

class FooLoss(PolicyLoss):
    name = "foo"
    api_version = 1
    def token_losses(self, batch):
        {body}
"""


@pytest.fixture
def skyrl(capsys):
    """Run `skyrl losses signature ARGUMENTS` here; exit code, output, errors."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = main(["losses", "signature", *arguments])
        return code, *capsys.readouterr()

    return run


def broken(distributions, body: str) -> None:
    distributions.add(
        "foo-dist",
        {"skyrl.policy_losses": {"foo": "foo_loss:FooLoss"}},
        modules={"foo_loss.py": BROKEN.format(body=body)},
    )


@pytest.fixture(scope="module")
def dual_clip():
    return measure_signature(load_policy_loss("dual_clip"))


class TestNumbers:
    def test_json_has_the_curves_and_the_probe(self, skyrl) -> None:
        code, output, _ = skyrl("dual_clip", "--json", "--param", "clip_high=0.5", "--length", "2")
        content = json.loads(output)
        assert code == 0
        assert content["schema_version"] == 1
        assert (content["name"], content["distribution"]) == ("dual_clip", "skyrl-core")
        assert content["params"] == {"clip_low": 0.2, "clip_high": 0.5, "clip_ratio_c": 3.0}
        assert content["probe"]["length"] == 2
        positive, negative = content["curves"]
        assert (positive["advantage"], negative["advantage"]) == (1.0, -1.0)
        assert [(each["kind"], each["ratio"]) for each in positive["breaks"]] == [("jump", pytest.approx(1.5))]
        assert len(positive["ratios"]) == len(positive["weights"]) == len(positive["losses"])
        at_one = positive["ratios"].index(1.0)
        assert (positive["weights"][at_one], positive["losses"][at_one]) == (1.0, -1.0)
        assert content["singled_out"] == []

    def test_a_parameter_may_be_text_null_or_json(self, skyrl) -> None:
        terms = '[{"loss": "cispo", "params": {"anchor": "rollout"}}, {"loss": "cross_entropy", "weight": 0.5}]'
        content = json.loads(skyrl("sum", "--json", "--param", f"terms={terms}")[1])
        assert content["params"]["terms"][0]["params"]["anchor"] == "rollout"
        at_one = content["curves"][0]["ratios"].index(1.0)
        assert [curve["weights"][at_one] for curve in content["curves"]] == [1.5, -0.5]
        assert "π / π_rollout" in skyrl("cispo", "--param", "anchor=rollout")[1]

    def test_nan_is_null(self, distributions, skyrl) -> None:
        broken(distributions, "return TokenLosses(values=(batch.log_probs + 2).log())")
        code, output, _ = skyrl("foo", "--json")
        assert code == 0
        assert None in json.loads(output)["curves"][0]["losses"]


class TestChart:
    @pytest.mark.parametrize("columns", [60, 80, 200])
    def test_no_line_is_wider_than_the_terminal(self, skyrl, monkeypatch, columns: int) -> None:
        monkeypatch.setenv("COLUMNS", str(columns))
        for name in ("dual_clip", "kl_cov"):
            _, output, _ = skyrl(name)
            assert max(map(len, output.splitlines())) <= columns

    def test_it_names_the_loss_its_parameters_its_bounds_and_the_probe(self, skyrl) -> None:
        _, output, _ = skyrl("dual_clip", "--param", "clip_ratio_c=null")
        words = " ".join(output.split())
        for fact in (
            "dual_clip (skyrl-core",
            "clip_ratio_c=null",
            "importance ratio π / π_old",
            "A = +1: jumps at 1.2 from 1.2 to 0.",
            "A = -1: jumps at 0.8 from 0 to -0.8.",
            "a sequence of 4 tokens that all have this ratio, of probability 0.1",
        ):
            assert fact in words

    def test_its_dots_are_where_the_weights_are(self, dual_clip) -> None:
        width = 80
        rows = chart(dual_clip.curves, "ratio", width, ascii_only=True)[:HEIGHT]
        left, columns = 8, width - 8 - 11
        for curve, mark in zip(dual_clip.curves, "+o", strict=True):
            for ratio, weight in ((0.5, {1: 0.5, -1: 0}), (2.0, {1: 0, -1: -2}), (6.0, {1: 0, -1: 0})):
                column = left + round((math.log(ratio) - math.log(1 / 8)) / math.log(64) * (columns - 1))
                # From 1.2 at the top to -3 at the bottom.
                row = round((1.2 - weight[round(curve.advantage)]) / 4.2 * (HEIGHT - 1))
                assert rows[row][column] in (mark, "*"), (ratio, mark)

    def test_a_jump_is_not_drawn_as_a_line(self, dual_clip) -> None:
        rows = chart(dual_clip.curves, "ratio", 80, ascii_only=True)[:HEIGHT]
        column = 8 + round(math.log(1.2 * 8) / math.log(64) * 60)
        between = [rows[row][column] for row in range(1, 4)]  # weights 1.2 and 0 are in rows 0 and 5
        assert "+" not in between
        assert ":" in between

    def test_a_terminal_without_braille_gets_ascii(self, run_skyrl) -> None:
        done = run_skyrl("losses", "signature", "dual_clip", PYTHONIOENCODING="ascii")
        assert done.returncode == 0
        assert done.stdout.isascii()
        assert "pi / pi_old" in done.stdout
        assert "?" not in done.stdout

    def test_a_token_that_the_loss_selects_has_a_separate_chart(self, skyrl) -> None:
        _, output, _ = skyrl("kl_cov")
        assert output.count("importance ratio") == 2
        assert "A = +1, selected: jumps at 1 from 2 to 0." in output

    def test_the_rollout_policy_is_named_if_it_is_the_denominator(self, skyrl) -> None:
        assert "π / π_rollout" in skyrl("icepop")[1]

    def test_curves_that_end_together_are_labelled_at_their_peaks(self) -> None:
        rows = chart(measure_signature(load_policy_loss("sapo")).curves, "ratio", 80, ascii_only=False)
        assert [row.split()[-1] for row in rows if "A = " in row] == ["+1", "-1"]


class TestPicture:
    def test_it_is_well_formed_with_a_path_for_each_curve(self, dual_clip) -> None:
        root = ElementTree.fromstring(svg(dual_clip, "<dual_clip>", "ratio"))
        space = "{http://www.w3.org/2000/svg}"
        plus, minus = root.findall(f"{space}path")
        assert (plus.get("class"), minus.get("class")) == ("curve plus", "curve minus")
        assert (plus.get("d").count("M"), minus.get("d").count("M")) == (2, 3)
        texts = [text.text for text in root.iter(f"{space}text")]
        assert "<dual_clip>" in texts
        assert {"0.8", "1.2", "3", "1/8", "1", "8", "A = +1", "A = −1"} <= set(texts)  # noqa: RUF001 - a minus sign
        assert "ratio (log scale)" in texts

    def test_a_path_goes_through_the_weights(self, dual_clip) -> None:
        root = ElementTree.fromstring(svg(dual_clip, "x", "ratio"))
        d = root.findall("{http://www.w3.org/2000/svg}path")[0].get("d")
        first = d.split("M")[1].split(" L")
        # 64 and 564 are the ends of the axis; its middle is ratio 1, where the weight is 1.
        middle = [point.split() for point in first if point.split()[0] == "314.0"]
        zero = float(d.split("M")[2].split(" L")[-1].split()[1])
        assert first[0].split()[0] == "64.0"
        # From -3 to 1.2, with a margin of 5 % on both sides, over 244 pixels.
        assert zero - float(middle[0][1]) == pytest.approx(244 / (1.1 * 4.2), abs=0.1)

    def test_the_same_loss_gives_the_same_bytes(self, dual_clip) -> None:
        again = measure_signature(load_policy_loss("dual_clip"))
        assert svg(again, "dual_clip", "ratio") == svg(dual_clip, "dual_clip", "ratio")

    def test_it_is_readable_on_light_and_on_dark_pages(self, dual_clip) -> None:
        text = svg(dual_clip, "x", "ratio")
        assert "prefers-color-scheme: dark" in text
        assert text.count("--paper:") == 2

    def test_it_is_written_to_a_file(self, skyrl, tmp_path) -> None:
        code, output, _ = skyrl("gspo", "--svg", str(tmp_path / "gspo.svg"))
        assert (code, output) == (0, f"wrote {tmp_path / 'gspo.svg'}\n")
        assert "1.0004" in (tmp_path / "gspo.svg").read_text(encoding="utf-8")

    def test_a_file_that_cannot_be_written_is_an_error(self, skyrl, tmp_path) -> None:
        code, _, errors = skyrl("gspo", "--svg", str(tmp_path / "none" / "gspo.svg"))
        assert code == 2
        assert "No such file or directory" in errors


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "code", "message"),
        [
            (["dual_clipp"], 2, "did you mean 'dual_clip'"),
            (["dual_clip", "--param", "clip_high"], 2, "expected KEY=VALUE"),
            (["dual_clip", "--param", "clip_hihg=1"], 4, "clip_high"),
            (["dual_clip", "--param", "clip_high=-1"], 4, "clip_high = -1"),
            (["dual_clip", "--range", "2", "1"], 2, "from a positive number to a larger one"),
            (["dual_clip", "--range", "0.5", "20"], 2, "end the ratios below 10"),
            (["dual_clip", "--length", "0"], 2, "from 1 to 4,096 tokens"),
        ],
    )
    def test_wrong_usage_is_explained(self, skyrl, arguments, code: int, message: str) -> None:
        found, output, errors = skyrl(*arguments)
        assert (found, output) == (code, "")
        assert message in errors

    def test_a_loss_that_raises_is_named(self, distributions, skyrl) -> None:
        broken(distributions, "return batch.log_probs.no_such_method()")
        code, _, errors = skyrl("foo")
        assert code == 6
        assert "foo failed on a sequence of 4 equal tokens: AttributeError" in errors
        assert "skyrl losses check foo" in errors

    def test_a_weight_that_is_not_finite_cannot_be_plotted(self, distributions, skyrl) -> None:
        broken(distributions, "return TokenLosses(values=batch.log_probs * float('nan'))")
        code, _, errors = skyrl("foo")
        assert code == 6
        assert "not finite" in errors


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("reinforce", "weight 1 at every ratio"),
        ("standard", "no jump, no bend"),
        ("cispo", "bends at 5, at weight 5"),
        ("gspo", "jumps at 1.0004 from 1.0004 to 0"),
        # At its peak d/dW of W^2 exp(3 (1 - W)) is 0: W = 2/3, r = (2/3)^(1/4) = 0.90, kernel 4/9 · e = 1.208
        ("vespo", "smooth; largest near 0.9, at 1.208"),
    ],
)
def test_a_curve_is_described_in_words(name: str, words: str) -> None:
    assert describe_curve(measure_signature(load_policy_loss(name)).curves[0]) == words


class TestAxis:
    @pytest.mark.parametrize(
        ("low", "high", "labels"),
        [
            (1 / 8, 8.0, ["1/8", "1/4", "1/2", "1", "2", "4", "8"]),
            (0.3, 5.0, ["1/2", "1", "2", "4"]),
            (1e-3, 1e3, ["1/1000", "1/100", "1/10", "1", "10", "100", "1000"]),
            (0.998, 1.002, ["0.998", "0.999", "1", "1.001", "1.002"]),
        ],
    )
    def test_ratios_are_marked_with_round_numbers(self, low: float, high: float, labels: list[str]) -> None:
        ticks = ratio_ticks(low, high)
        assert [label for _, label in ticks] == labels
        assert all(low * (1 - 1e-9) <= value <= high * (1 + 1e-9) for value, _ in ticks)

    def test_weights_are_marked_with_multiples_of_a_round_step(self) -> None:
        assert linear_ticks(-3.0, 1.2, 8) == [-3.0, -2.0, -1.0, 0.0, 1.0]
        assert linear_ticks(0.0, 1.0, 5) == [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]

    @pytest.mark.parametrize(
        ("value", "text"), [(1.2, "1.2"), (0.9997, "0.9997"), (1.00042, "1.00042"), (2.56866, "2.569"), (-0.0, "0")]
    )
    def test_a_number_is_short(self, value: float, text: str) -> None:
        assert number(value) == text

    def test_positions_are_linear_or_logarithmic(self) -> None:
        assert scaled(0.0, -1.0, 1.0, 10) == 5
        assert scaled(1.0, 1 / 8, 8.0, 10, log=True) == pytest.approx(5)

    def test_weights_that_are_all_zero_have_a_range(self) -> None:
        curve = Curve(advantage=1.0, ratios=(0.5, 1.0), losses=(0.0, 0.0), weights=(0.0, 0.0), breaks=())
        assert weight_range([curve]) == (-1.0, 1.0)
        assert bounds([curve]) == []
