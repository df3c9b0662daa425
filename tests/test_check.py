"""What the judge ``check`` reads in a step: arithmetic and code, right, wrong, unread and hostile."""

from __future__ import annotations

import time

import pytest

from specreason_graph.judging.check import checked
from specreason_graph.judging.expressions import BUDGET
from specreason_graph.models.abacus.problems import held_out

HOLD = [
    "3 boxes * 4 = 12 coins",
    "$5 + $3 = $8",
    "1 1/2 + 1/2 = 2",
    r"1\frac{1}{2} + 1 = 2.5",
    r"$1\frac{1}{2} + 1 = 2.5$",
    "2½ + 1 = 3½",
    "17 / 5 = 3 2/5",
    "3 cups + 1 1/2 cups = 4 1/2 cups",
    "√16 = 4",
    "√(9 + 16) = 5",
    r"\sqrt{16} = 4",
    r"\sqrt{\frac{9}{4}} = 1.5",
    "5√2 ≈ 7.07",
    "sqrt(2) = 1.41",
    "sqrt(2) * sqrt(2) = 2",
    "sqrt(50) = 5*sqrt(2)",
    "The square root of 16 = 4",
    "14 * 23 = 322",
    "14*23=322.",
    "322 - 57 = 265",
    "So 322 - 57 = 265 pens are left.",
    "14 \u00d7 23 = 322",
    "14 · 23 = 322",
    "14 x 23 = 322",
    "14x23=322",
    "96 ÷ 4 = 24",
    "1,234 + 766 = 2,000",
    "$12 * 3 = $36",
    "12 * $3 = $36",
    "3 boxes * 4 pens = 12 pens",
    "2 + 3 = 5 = 10 / 2",
    "20% of 50 = 10",
    "(5 / 20) * 100 = 25%",
    "1/4 = 25%",
    "10 / 3 = 3.33",
    "2 / 3 = 0.66",
    "2 / 3 = 0.667",
    "2/3 ≈ 0.67",
    "1000 / 7 ≈ 143",
    "14 \\times 23 = 322",
    "\\(14 \\cdot 23 = 322\\)",
    "$\\frac{14}{2} = 7$",
    "\\frac{1}{2} + \\frac{1}{3} = \\frac{5}{6}",
    "14 \\times 23 = \\boxed{322}",
    "**14 * 23 = 322**",
    "(14 * 23 = 322)",
    "2^10 = 1024",
    "2**10 == 1024",
    "10^{-3} = 0.001",
    "3² + 4² = 25",
    "-5 + 8 = 3",
    "5 - -3 = 8",
    "17 // 5 = 3",
    "19 / 5 = 3",
    "7 / 2 = 3.5 hours",
    ">>> 2 + 3\n5",
    "2 + 3 > 4",
    "12 < 15",
    "3 * 4 <= 12",
    "7 != 8",
    "48/2 = <<48/2=24>>24",
    "Total = 14 * 23 = 322 pens in all",
    "1. 3 + 4 = 7",
    "- 3 + 4 = 7",
    "7 and 3 + 4 = 7 and 5 + 3 = 8",
    "5 plus 3 = 8",
    "5 times 3 = 15",
    "$5/hour * 8 hours = $40",
    "0.1 + 0.2 = 0.3",
    "2(3 + 4) = 14",
    "1/2 of 10 = 5",
    "\\dfrac{3}{4} \\times 8 = 6",
    "99^9 > 1",
    "1 - 20% = 80%",
    "2 + 2 = 4, so 4 * 3 = 12",
]
WRONG = [
    "3 boxes * 4 = 13 coins",
    "$5 + $3 = $9",
    "1 1/2 + 1/2 = 3",
    r"1\frac{1}{2} + 1 = 1.5",
    "2½ + 1 = 4½",
    "17 / 5 = 3 1/5",
    "√16 = 5",
    r"\sqrt{16} = 5",
    "sqrt(2) = 1.42",
    "sqrt(50) = 5*sqrt(3)",
    "The square root of 16 = 8",
    "((((2 + 3 = 5 + 1",
    "14 * 23 = 332",
    "14*23=312.",
    "322 - 57 = 275",
    "So 322 - 57 = 255 pens are left.",
    "14 \u00d7 23 = 332",
    "14x23=320",
    "96 ÷ 4 = 25",
    "1,234 + 766 = 2,001",
    "$12 * 3 = $37",
    "12 * 3 = $37",
    "3 boxes * 4 pens = 13 pens",
    "2 + 3 = 5 = 10 / 3",
    "20% of 50 = 15",
    "(5 / 20) * 100 = 26%",
    "10 / 3 = 3.34",
    "1000 / 7 ≈ 160",
    "14 \\times 23 = 332",
    "$\\frac{14}{2} = 8$",
    "\\frac{1}{2} + \\frac{1}{3} = \\frac{2}{5}",
    "14 \\times 23 = \\boxed{332}",
    "**14 * 23 = 332**",
    "(14 * 23 = 332)",
    "2^10 = 1000",
    "2**10 == 1023",
    "3² + 4² = 24",
    "-5 + 8 = 13",
    "17 // 5 = 4",
    ">>> 2 + 3\n6",
    "2 + 3 > 6",
    "15 < 12",
    "3 * 4 <= 11",
    "48/2 = <<48/2=25>>25",
    "Total = 14 * 23 = 332 pens in all",
    "1. 3 + 4 = 8",
    "5 plus 3 = 9",
    "5 times 3 = 16",
    "0.1 + 0.2 = 0.4",
    "2(3 + 4) = 15",
    "1/2 of 10 = 6",
    "2 + 2 = 4, so 4 * 3 = 13",
    "$5 + $3 = $9",
    "5 pens + 3 pens = 9 pens",
]
UNREAD = [
    "No numbers here.",
    "x + 5 = 12",
    "total + 5 = 12",
    "2x = 10",
    "2x + 3 = 7",
    "= 7",
    "5 =",
    "3 * price = 10",
    "f(3) = 8",
    "f(2, 3 + 4) = 9",
    "sqrt 16 = 5",
    "sqrt(-4) = 2",
    r"\sqrt[3]{27} = 3",
    "10 3/2 = 15",
    "1 1/2 hours = 90 minutes",
    "3 weeks * 7 = 20 days",
    "1 hour = 60 minutes",
    "2 hours + 30 minutes = 150 minutes",
    "90 minutes / 60 = 1.5 hours + x",
    "90 minutes / 2 = 0.75 hours",
    "50 * 3 = $1.50",
    "50 + 10% = 55",
    "half of 10 + 4 = 9",
    "twice 5 + 3 = 13",
    "Is 7 * 8 = 54?",
    "7 * 8 = 54 is wrong.",
    "if 3 + 4 = 8 then",
    "3,5 + 1 = 5,5",
    "(10 + 7) mod 5 = 2",
    "10:30 + 2:15 = 13:45",
    "9**9**9 = 1",
    "10**99999 = 1",
    "3 / 0 = 1",
    "2 apples + 3 = 11",
    "10 am + 5 hours = 3 pm",
    "1.5 million + 500,000 = 2 million",
    "5! = 121",
    "3 -> 4 = 5",
    "a[3] = 4",
    "2 * 3 = 2pi",
    "0x10 = 16",
    "17 % 5 == 2",
    "(x + 2)(3 + 4) = 7",
    "(3, 4) + (1, 1) = (4, 6)",
    "n = 5 = 7",
    "1 ± 2 = 5",
    "3 hours 20 + 5 = 30",
    "1 + 1 = 10 in binary",
    "3 km + 200 = 5",
    "2 + 3 + = 4",
    "5 (3 + 4) = 36",
]


def verdict(text: str) -> bool | None:
    """What the check makes of a step; None where it finds nothing to check."""
    found = [each["holds"] for each in checked(text)]
    return all(found) if found else None


@pytest.mark.parametrize("text", HOLD)
def test_right_arithmetic_holds(text: str) -> None:
    assert verdict(text) is True


@pytest.mark.parametrize("text", WRONG)
def test_wrong_arithmetic_does_not(text: str) -> None:
    assert verdict(text) is False


@pytest.mark.parametrize("text", UNREAD)
def test_what_cannot_be_read_is_passed_over(text: str) -> None:
    assert verdict(text) is None


def test_every_step_of_the_reference_pair_is_told_from_one_that_is_off_by_ten() -> None:
    for problem in held_out()[:300]:
        for index, (operation, right) in enumerate(zip(problem.operations, problem.steps, strict=True)):
            computes = operation.sign != "="
            assert verdict(right) is (True if computes else None), right
            wrong = operation.render(problem.results[:index], problem.results[index] + 10)
            assert verdict(wrong) is (False if computes else None), wrong


HOSTILE = [
    "(" * 20_000 + "1" + ")" * 20_000 + "=1", "1+" * 10_000 + "1=3", "9" * 20_000 + "=1", "9**" * 300 + "9=1",
    "-" * 900 + "1+1=2", r"\frac{" * 4_000, "1,234" * 200 + "=5+1", "**" * 9_000, "^{" * 9_000, "1 x " * 250 + "=2+2",
    "1=1+1" * 4_000, r"\text{" * 5_000 + "}" * 5_000, " " * 20_000, ">>> " * 5_000, "1/" * 499 + "1=2",
    "9**999*" * 100 + "1=1", ("7*" * 400 + "7=1\n") * 20, "((1+1)*" * 100 + "1" + ")" * 100 + "=3", "\x00=1+1",
    "=" * 20_000,
    "√" * 20_000, r"\sqrt{" * 5_000 + "2" + "}" * 5_000, "sqrt(" * 190 + "2" + ")" * 190 + "=1.0",
    "1 1/2 " * 160 + "= 3 + 1",
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_text_takes_bounded_time(text: str) -> None:
    begun = time.process_time()
    assert verdict(text) is not True or text.startswith("-")
    assert time.process_time() - begun < 2


def python(*lines: str) -> str:
    """Fenced code."""
    return "\n".join(["```python", *lines, "```"])


PARSES = ("Python that parses", True)
CODE: list[tuple[str, list[tuple[str, bool]]]] = [
    ("`len('abc')` is `3`.", [("`len('abc')` is `3`", True)]),
    ("So `len('abc')` returns 4 here.", [("`len('abc')` returns 4", False)]),
    ("`2**10` equals 1,024.", [("`2**10` equals 1,024", True)]),
    ("`sum(range(1, 101))` = 5050", [("`sum(range(1, 101))` = 5050", True)]),
    ("`'abc'[::-1]` → `'cba'` and `'abc'.upper()` → `'ABD'`", [
        ("`'abc'[::-1]` → `'cba'`", True), ("`'abc'.upper()` → `'ABD'`", False),
    ]),
    ("`[x * x for x in range(4)]` is `[0, 1, 4, 9]`", [("`[x * x for x in range(4)]` is `[0, 1, 4, 9]`", True)]),
    ("`0.1 + 0.2` is `0.3`, `10 / 3` is 3.33", [("`0.1 + 0.2` is `0.3`", True), ("`10 / 3` is 3.33", True)]),
    ("`7 / 2` is `3`", []),  # other languages divide in whole numbers
    ("`2 ^ 3` is 8", []),
    ("If `2 + 2` is `5` we are lost.", []),
    ("Is it that `2 + 2` is `5`?", []),
    ("`2 + 2` is not `5`", []),
    ("`x + 1` is `3`, `3` is `4`, `f(2)` is `5`, `(2).real` is `3`", []),
    ("`list(set('ab'))` is `['a', 'b']`", []),  # in another process it is not
    (python("x = 3", "y = x * 4", "assert y == 12", "print(y)  # 12", "print(y + 1)  # 14", "y  # the product"), [
        PARSES, ("assert y == 12", True), ("print(y) gives 12", True), ("print(y + 1) gives 14", False),
    ]),
    (python("def f(x):", "    return x", "print(1 + 1)  # 3"), [PARSES]),  # what a definition changes is not followed
    (python("len = 4", "len  # 5"), [PARSES]),
    (python("import math", "sorted([3, 1])  # => [1, 3]"), [PARSES, ("sorted([3, 1]) gives [1, 3]", True)]),
    (python("print(f'{1 / 3:.2f} of {12:,}')  # 0.33 of 12"), [
        PARSES, ("print(f'{1 / 3:.2f} of {12:,}') gives 0.33 of 12", True),
    ]),
    (python("for i in range(3)", "    print(i)"), [("Python that parses: line 1, expected ':'", False)]),
    (python("else:", "    x = 1"), []),  # goes on from other code
    (python("!pip install x"), []),
    (python("print('\\d')"), [PARSES]),
    (python("print(2 + 3)", "print('a')") + "\n```output\n5\na\n```", [PARSES, ("it prints 5 a", True)]),
    (python("print(2 + 3)") + "\n**Output:**\n```\n6\n```", [PARSES, ("it prints 6", False)]),
    (python("print(2 + 3)") + "\nThen\n```\n6\n```", [PARSES]),
    (python("x = 2 ^ 3 == 1") + "\nSo 2 + 2 = 5.", [PARSES, ("2 + 2 = 5", False)]),
    ("```python\nprint(1 + 1)  # 3", []),  # cut off
    ("~~~python\nassert 1 + 1 == 3\n~~~~", [PARSES, ("assert 1 + 1 == 3", False)]),
    (">>> 2 + 3\n5\n>>> x = [1, 2]\n>>> len(x)\n3\n", [("2 + 3 gives 5", True), ("len(x) gives 3", False)]),
    (python(">>> 'a' * 3", "'aaa'"), [("'a' * 3 gives 'aaa'", True)]),
    (">>> 2 + 3 == 6\nFalse", [("2 + 3 == 6 gives False", True)]),
    ("```\n3 + 4 = 8\n```", [("3 + 4 = 8", False)]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "found"), CODE, ids=range(len(CODE)))
def test_statements_of_code(text: str, found: list[tuple[str, bool]]) -> None:
    assert [(each["statement"], each["holds"]) for each in checked(text)] == found


HOSTILE_CODE = [
    *(f"`{code}` is 3" for code in (
        "10**10**10", "[[[0]*100]*100]*100", "'a'*10**9", "b'a'*10**9", "'%1000000000d' % 1", 'f"{1:1000000000}"',
        "'a'.ljust(10**10)", "().__class__.__bases__", "__import__('os')", "round(5, -10**9)", "1 << 10**9",
        "int('9'*4000) * 2", "max(range(10**12))", "len(range(10**30))",
        "[j for i in range(9999) for j in range(9999)]", "{i*(2**61-1): 1 for i in range(9000)}", "(lambda: 3)()",
        "sum([[0]] * 9999, [])",
    )),
    *(python(code) for code in (
        "(" * 9_000, "-" * 9_000 + "1", "x = " + "not " * 2_400 + "1", "1+" * 4_900 + "1", "lambda:" * 1_200 + "1",
        "\x00", "'\ud800'", "\\\n" * 4_000 + "1", "x = [1]\n" + "x = [x]\n" * 1_200 + "print(x)  # 3",
        "x = 'ab'\n" + "x = x + x\n" * 900 + "print(x)  # 3", "x = [0]\n" + "x = [x, x, x]\n" * 600 + "print(x)  # 3",
        "x = 3\n" + "x = x * x\n" * 900 + "print(x)  # 3", "print([i*i for i in range(9000)])  # 4\n" * 200,
        "import os\nos.system('true')  # 3", "while True: pass", "1 +" * 4_000,
    )),
    ">>> " * 5_000, ">>> 1\n" * 1_500, "```a\n" * 4_000, "~~~" * 6_000, "`a` is " * 3_000, "`" * 20_000,
    "`" + "a" * 19_000, "`[i for i in range(9000)]` is 3. " * 600, "```python\n" * 2_000,
    "x" * 10**6, python("x = 1\n" * 10**5),
]  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE_CODE, ids=range(len(HOSTILE_CODE)))
def test_hostile_code_takes_bounded_time_and_has_no_value(text: str) -> None:
    begun = time.process_time()
    found = checked(text)
    assert time.process_time() - begun < 2
    assert not any(
        each["holds"] and each["statement"] != PARSES[0] for each in found if "gives 1" not in each["statement"]
    )
    assert all(len(each["statement"]) <= 200 for each in found)


def test_what_a_step_may_take_is_shared_by_its_statements() -> None:
    one = f"`len([i for i in range({BUDGET // 10})])` is {BUDGET // 10}. "
    assert [each["holds"] for each in checked(one)] == [True]
    assert len(checked(one * 9)) < 9
