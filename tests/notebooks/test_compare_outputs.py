"""The comparison of outputs by itself: what is a number, how far it may move, what a message says."""

import pandas as pd
import pytest
from compare_outputs import Tolerance, cell_differences, differences, text_of_html
from nbformat.v4 import new_code_cell, new_output

WIDE = Tolerance(absolute=0.02, relative=0.1)


class TestPrintedPrecision:
    """Without a tolerance of its own, a number may move by one unit of its last printed digit."""

    @pytest.mark.parametrize(
        ("recorded", "found"),
        [
            ("0.868", "0.869"),
            ("0.868", "0.867"),
            ("0.868", "0.8685"),
            ("−0.5", "−0.4"),
            ("-0.05", "-0.06"),
            ("0.00", "-0.01"),
            ("+0.036", "+0.035"),
            ("93.1 %", "93.2 %"),
            ("93.1%", "93.0%"),
            ("12,345.6", "12,345.7"),
            ("1.2e-03", "1.3e-03"),
            ("[91.2, 92.2]", "[91.3, 92.1]"),
            ("[91.2,92.2]", "[91.3,92.1]"),
            ("tensor([0.1000, 0.9000])", "tensor([0.1001, 0.8999])"),
            ("0.25s", "0.26s"),
            ("a (p=0.25)", "a (p=0.26)"),
            ("0.713–0.883", "0.712–0.884"),
        ],
    )
    def test_one_unit_is_allowed(self, recorded, found):
        assert differences(recorded, found) == []

    @pytest.mark.parametrize(
        ("recorded", "found"),
        [
            ("0.868", "0.870"),
            ("0.868", "0.8661"),
            ("0.5", "-0.5"),
            ("−0.5", "0.5"),
            ("-0.05", "0.05"),
            ("1e-3", "2e-3"),
            ("1e-3", "1e-2"),
            ("1.2e-03", "1.2e-02"),
            ("93.1 %", "93.3 %"),
            ("93 %", "94 %"),
            ("12,345", "12,346"),
            ("12,345", "12345"),
            ("450 of 500", "451 of 500"),
            ("[91.2, 92.2]", "[91.2, 92.4]"),
            ("[91.2, 92.2]", "[91.2]"),
            ("[91.2, 92.2]", "[91.2, 92.2, 93.2]"),
            ("0.5", "nan"),
            ("nan", "0.5"),
            ("inf", "nan"),
            ("inf", "-inf"),
            ("1.0", "inf"),
            ("2.15.0", "2.15.1"),
            ("2026-11-28", "2026-11-29"),
            ("12:30", "12:31"),
            ("conv2", "conv3"),
            ("p90", "p91"),
            ("5-3", "5+3"),
            ("32×32", "32×16"),
        ],
    )
    def test_anything_else_is_a_difference(self, recorded, found):
        assert len(differences(recorded, found)) == 1


class TestOwnTolerance:
    @pytest.mark.parametrize(
        ("recorded", "found"), [("0.86", "0.93"), ("0.05", "0.03"), ("12,345", "12,999"), ("27%", "29%"), ("3", "3")]
    )
    def test_the_wider_of_absolute_and_relative(self, recorded, found):
        assert differences(recorded, found, WIDE) == []

    @pytest.mark.parametrize(
        ("recorded", "found"),
        [
            ("0.86", "0.95"),
            ("0.05", "0.02"),
            ("0.5", "-0.5"),
            ("3", "4"),
            ("0.5", "nan"),
            ("inf", "-inf"),
            ("2.15.0", "2.15.1"),
            ("2026-11-28", "2026-11-29"),
            ("conv2", "conv3"),
        ],
    )
    def test_beyond_it(self, recorded, found):
        assert len(differences(recorded, found, WIDE)) == 1

    def test_never_narrower_than_the_printed_precision(self):
        assert differences("0.5", "0.6", Tolerance(absolute=0.001)) == []

    def test_is_read_from_the_metadata(self):
        named = {"absolute": 0.02, "relative": 0.1, "why": "trained"}
        assert Tolerance.of_cell(new_code_cell(metadata={"course": {"tolerance": named}})) == WIDE
        assert Tolerance.of_cell(new_code_cell()) == Tolerance()

    @pytest.mark.parametrize(
        ("named", "expected"),
        [
            ({}, "absolute"),
            ({"why": "trained"}, "absolute"),
            ({"absolut": 0.02, "why": "trained"}, "absolut"),
            ({"absolute": -0.02, "why": "trained"}, "above 0"),
            ({"relative": 0, "why": "trained"}, "above 0"),
            ({"any_quoted_text": False, "why": "generated"}, "above 0 or true"),
            ({"absolute": 0.02}, "reason"),
            ({"absolute": 0.02, "why": ""}, "reason"),
        ],
    )
    def test_a_wrong_one_is_an_error(self, named, expected):
        with pytest.raises(ValueError, match=expected):
            Tolerance.of_cell(new_code_cell(metadata={"course": {"tolerance": named}}))


class TestWords:
    def test_words_and_lines_are_equal_or_reported(self):
        assert differences("loss 0.50\nacc 0.90", "lost 0.50\nacc 0.90") == [
            "line 1: expected 'loss 0.50', found 'lost 0.50'"
        ]
        (message,) = differences("one\ntwo\nthree", "one\nthree")
        assert message == "expected 3 lines (-), found 2 (+):\n- two"
        assert differences("True", "False")
        assert differences("a", "")
        assert differences("", "a")

    def test_blanks_count_unless_a_number_moved_its_neighbours(self):
        assert differences("a  b 0.50", "a b 0.50")
        assert differences("    f1  name\n0 9.999  a", "     f1  name\n0 10.000  a") == []
        assert differences("name 0.50\n  indented", "name 0.50\nindented")

    def test_a_message_names_the_place_both_numbers_and_the_tolerance(self):
        assert differences("first\nmean 0.868, count 7", "first\nmean 0.871, count 8") == [
            "line 2: expected 0.868, found 0.871 (allowed: ±0.001, the printed precision) in 'mean 0.868, count 7'",
            "line 2: expected 7, found 8 (allowed: exactly this) in 'mean 0.868, count 7'",
        ]
        assert differences("mean 0.868", "mean 0.971", WIDE) == [
            "line 1: expected 0.868, found 0.971 (allowed: ±0.0868, the cell's tolerance) in 'mean 0.868'"
        ]


def shown(data: dict) -> list:
    return [new_output("display_data", data)]


class TestQuotedText:
    FREE = Tolerance(any_quoted_text=True)

    @pytest.mark.parametrize(
        ("recorded", "found"),
        [
            ("score 0.5 'the data'", "score 0.5 'a set of 3'"),
            ("score 0.5 'the data'", 'score 0.5 "it\'s"'),
            (r"0.5 'it\'s \n'", r"0.5 'so'"),
            ('- "star 65%", images: 1\n- "bar"', '- "cross 64%", images: 1\n- "bar? star"'),
        ],
    )
    def test_may_be_any_other_where_the_cell_says_so(self, recorded, found):
        assert differences(recorded, found, self.FREE) == []
        assert differences(recorded, found) != []

    def test_everything_beside_it_still_counts(self):
        assert differences("score 0.5 'a'", "score 0.7 'b'", self.FREE)
        assert differences("score 0.5 'a'", "log p 0.5 'b'", self.FREE)
        assert differences("'a' 'b'", "'a'", self.FREE)
        assert differences("'a'", "a", self.FREE)


class TestHtml:
    TABLE = pd.DataFrame({"f1": [0.5, 0.75], "n": [3, 4]}, index=["cat", "dog"])

    def compare(self, frame: pd.DataFrame) -> list[str]:
        return cell_differences(
            shown({"text/html": self.TABLE._repr_html_()}), shown({"text/html": frame._repr_html_()}), Tolerance()
        )

    def test_a_table_is_read_row_by_row(self):
        text = "| | f1 | n\n| cat | 0.50 | 3\n| dog | 0.75 | 4"
        assert text_of_html(self.TABLE._repr_html_()) == text

    def test_cells_move_within_the_printed_precision(self):
        assert self.compare(self.TABLE.assign(f1=[0.51, 0.74])) == []
        assert len(self.compare(self.TABLE.assign(f1=[0.52, 0.73]))) == 2
        assert len(self.compare(self.TABLE.assign(n=[3, 5]))) == 1

    def test_a_missing_or_added_row_or_column_is_a_difference(self):
        assert self.compare(self.TABLE.iloc[:1])
        assert self.compare(self.TABLE[["f1"]])
        assert self.compare(self.TABLE.assign(more=""))
        assert self.compare(pd.concat([self.TABLE, self.TABLE.iloc[:1]]))
        assert self.compare(self.TABLE.rename(index={"cat": "cow"}))

    def test_markup_and_styles_do_not_count(self):
        assert text_of_html("<style>b {margin: 0}</style><b class='x'>0.5</b>\n  &lt;ok&gt;") == "0.5 <ok>"

    def test_a_picture_is_its_description(self):
        assert text_of_html('<p>see <img alt="two lines" src="data:image/png;base64,AAAA"></p>') == (
            "see [picture: two lines]"
        )


class TestOutputs:
    def test_pictures_count_by_their_text_and_widgets_not_at_all(self):
        picture = shown({"image/png": "AAAA", "text/plain": "Figure, 1 panel"})
        other = shown({"image/png": "BBBB", "text/plain": "Figure, 1 panel"})
        assert cell_differences(picture, other, Tolerance()) == []
        widget = shown({"application/vnd.jupyter.widget-view+json": {}, "text/plain": "interactive(…)"})
        assert cell_differences([], [*picture, *widget], Tolerance()) == []
        assert cell_differences(picture, [*picture, *widget], Tolerance()) != []

    def test_a_missing_or_added_output_is_a_difference(self):
        value, printed = shown({"text/plain": "42"}), [new_output("stream", name="stdout", text="42")]
        assert cell_differences(value, [], Tolerance()) == ["text/plain: expected 1 outputs, found 0: []"]
        assert cell_differences([], printed, Tolerance()) == ["stdout: expected 0 outputs, found 1: ['42']"]
        assert len(cell_differences(value, printed, Tolerance())) == 2
        error = [new_output("error", ename="E", evalue="broken", traceback=[])]
        assert cell_differences([], error, Tolerance()) == ["error: expected 0 outputs, found 1: ['broken']"]

    def test_a_stream_in_pieces_is_one_text(self):
        whole = [new_output("stream", name="stdout", text="a\nb\n")]
        pieces = [new_output("stream", name="stdout", text=text) for text in ("a\n", "b\n")]
        assert cell_differences(whole, pieces, Tolerance()) == []
