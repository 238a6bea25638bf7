r"""Adversarial outputs for the scorer, by the rule of harness/scoring.py that decides them."""

from __future__ import annotations

from typing import NamedTuple


class Case(NamedTuple):
    """`verdict`: "marker" (correct), "wrong" (a marker's other number), "ambiguous", "flexible" (only that correct),
    "flexible wrong", "truncated" or "no answer"; `answer`, where given with a number read, must equal it."""

    rule: int
    name: str
    continuation: str
    reference: str
    verdict: str
    answer: str | None = None
    finished: bool = True


def rows(rule: int, verdict: str, *texts: str, reference: str = "18", finished: bool = True) -> list[Case]:
    """One case per text, named by the text."""
    return [Case(rule, repr(text), text, reference, verdict, finished=finished) for text in texts]


def answer(rule: int, verdict: str, *texts: str, reference: str = "18") -> list[Case]:
    return rows(rule, verdict, *("The answer is: " + text for text in texts), reference=reference)


LATER = "\nShe has 9 left.\n#### 18"  # a heading is passed over, so the answer that follows it counts

# fmt: off
HEADINGS = (
    "#### 1. First find the eggs", "#### 1. first find the eggs", "#### 1.First find the eggs", "#### 1) Find the eggs",
    "#### 1.) Find the eggs", "#### (1) Find the eggs", "#### [1] Find the eggs", "#### 1: Find the eggs",
    "#### 1 - Find the eggs", "#### 1 — Find the eggs", "#### 1 Find the eggs", "#### **1. Find the eggs**",
    "#### **1.** Find the eggs", "#### 1\ufe0f\u20e3 Find the eggs", "#### ① Find the eggs", "#### 1st step",
    "#### 2nd day: 16 eggs", "#### Day 1", "#### Day 1: 16 eggs", "#### Day 1 - 16 eggs", "#### Day 1 = 16 eggs",
    "#### Step 1", "#### Step 1: 16 - 3 = 13", "#### Step #2: 13 - 4 = 9 eggs",
    "#### **Step 1: find the eggs for 3 days**", "#### Part 2", "#### Case 1: 3 eggs", "#### Week 2", "#### Year 2024",
    "#### Monday: 3 eggs", "#### Total for 3 days", "#### Eggs sold in 3 days", "#### How many eggs are 3 dozen?",
    "#### Find 3 * 6", "#### Calculate: 16 - 3", "#### Given: 16 eggs", "#### Let x be 3", "#### Answer 1",
    "#### Explanation of the answer for 3 days", "#### Step 1 ####", "#### 1. Find the eggs ####", "##### 2. Multiply",
    "###### Day 3", "####Day 1", "#### US 3rd grade", "#### Solution", "#### Solution ####", "#### A) 16 eggs",
    "#### Price of 1 egg: $2", r"#### 1\. find the eggs", "#### 1.1 Find the eggs",
)

CASES = [
    # 2. The earliest marker with an answer counts.
    *rows(2, "marker",
        "#### 18\n#### 17", "#### 18 The answer is: 17", "#### 18\nWait, no.\nThe answer is: 17",
        "If the answer is right, it is a whole number.\n#### 18", "The answer is below.\n#### 18", "```\n#### 18\n```",
        "> #### 18", "> The answer is: 18", "| The answer is | 18 |", "- #### 18",
    ),
    *rows(2, "wrong", "The answer is 17. Wait, no: The answer is 18", "The answer is: 17\n#### 18", "#### 17 #### 18"),
    *rows(2, "ambiguous", "The answer is: 3, 18\n#### 18", "The answer is not 17.\nThe answer is 18."),
    *rows(2, "flexible",
        "### 18", "# 18", "Answer: 18", "**Answer:** $18", "The correct answer would be 18", "= 18",
        "The answers are 18", r"\fbox{18}", r"\boxed 18", "Other answer is: 18", "the answer isn't 18",
    ),
    # 3. Headings.
    *rows(3, "marker", *(heading + LATER for heading in HEADINGS)),
    *rows(3, "marker",
        "#### 1. Find\n9 left\n#### 2. Multiply\nThe answer is: 18", "#### So the answer is 18", "#### Answer: 18",
        "#### Answer = 18", "#### Final Answer: $18", "#### The result is 18", "#### Total: 18 eggs", "#### x = 18",
        "#### Total eggs = 18", "#### Profit = 20 - 2 = 18", "#### Answer: Janet makes $18", "#### **Answer:** 18",
        r"#### Answer: \boxed{18}", "#### = 18", "#### 18 ####", "#### 18 Dollars", "#### 18 USD", "#### USD 18",
        "#### about 18", "##### 18", "#### 18!", "#### 18 :)", "#### 18.", "#### [18]", "#### (18)", "#### ~18",
        "#### $$18$$", "#### 18 - the eggs of 2 days", "#### 18 eggs a day", "#### 18 (9 x 2)", "#### 9 * 2 = 18",
        "#### Therefore, 18", "#### Thus: 18", "#### So, the total is 18", "#### Ans: 18", "#### Final answer — 18",
    ),
    *rows(3, "ambiguous", "#### Final answer - 18"),
    *rows(3, "marker", "#### -18", "#### - 18", "#### minus 18", "#### negative $18", reference="-18"),
    *rows(3, "flexible", "#### Eggs 18", "#### She makes $18", "#### 3. Multiply, which gives 18"),
    *rows(3, "truncated", "#### Day 1: 18 eggs", finished=False),
    # 4. The next line.
    *rows(4, "marker",
        "The answer is:\n\n18 eggs", "####\n18", "#### \n\n**18**", "The answer is\n> 18", "The answer is: \n* 18",
        "The answer is:\n```\n18\n```", "The answer is:\n• 18", "####\nAnswer: 18", "The answer is:\n$$18$$",
        "The answer is: \n$\\boxed{18}$, 3 more than 15", "\\boxed{\n18\n}", "**The final answer is:**\n18",
        "#### Final Answer\n18", "#### **Answer:**\n\n$18",
    ),
    *rows(4, "marker", "The answer is:\n-18", "####\n−18", reference="-18"),
    *rows(4, "ambiguous", "The answer is:\n- 18", "The answer is:\n18, 20"),
    *rows(4, "flexible",
        "#### Answer\n1. Find the eggs\n18", "#### Total\n18", "The answer is:\n1. Find the eggs\n2. Multiply: 18",
        "####\nDay 3\n18", "#### Step ####\n9 * 2 = 18",
    ),
    # 5. Boxes.
    *rows(5, "marker",
        r"$$\boxed{18}$$", r"\[\boxed{18}\]", r"(\boxed{18})", r"*\boxed{18}*", r"= \boxed{18}\%",
        r"\boxed{\boxed{18}}", r"\boxed {18}", r"\boxed{x = 18}", r"9 * 2 = \boxed{18} eggs for 2 days",
        r"\boxed{\text{Janet makes } \$18}", r"\boxed{18^\circ}", r"\boxed{18}. Then 3, \boxed{5}",
        r"\boxed{A} \boxed{18}", "\\boxed{\\text{no}}\n#### 18", r"x=3 in all, $\boxed{18}$ hens",
        r"The answer is 18: \boxed{18}", r"The answer is 18 eggs, $\boxed{18}$", r"\boxed{18",
    ),
    *answer(5, "marker", r"$\boxed{18}$"),
    *rows(5, "ambiguous",
        r"-\boxed{18}", r"$-\boxed{18}$", r"minus \boxed{18}", r"2\boxed{18}", r"\sqrt{\boxed{18}}", r"\boxed{18}^2",
        r"\boxed{1}8", r"\boxed{18}.5", r"\boxed{18}/2", r"\boxed{18} million", r"\boxed{18} or \boxed{20}",
        r"\boxed{18}, \boxed{20}", r"\boxed{18} and 3", r"\boxed{18} * 2 = 36", r"The answer is not \boxed{18}",
        r"2 * \boxed{18} = 36", r"between \boxed{18} and \boxed{20}", r"\boxed{18, 20}", r"\boxed{18 \text{ or } 20}",
        r"\boxed{\{18, 20\}}", r"\boxed{[18, 20)}",
    ),
    # 6. Forms of a number.
    *answer(6, "marker",
        "018", "+18", "18.000", "36/2", "36 / 2", "18/1", r"\dfrac{36}{2}", r"\cfrac{36}{2}", r"36 \over 2",
        r"36 \div 2", "{18}", "1\u200b8", "\u202e18\u202c", "\u200f18", "1\u00ad8", "\u206618\u2069", "\u0661\u0668",
        "\u0967\u096e", "\U0001d7cf\U0001d7d6", "\uff11\uff18．", "&#49;8", "1&#8203;8", "&nbsp;18&nbsp;eggs",
        "36&frasl;2",
    ),
    *answer(6, "marker",
        "1,000", "1_000.0", r"1\;000", r"1,\!000", "1\u2009000", "\u0661٬\u0660\u0660\u0660",
        reference="1,000",
    ),
    *answer(6, "marker", "2 ½", "2½ cups", "5/2", "2 1/2", r"2\tfrac12", "2.50", "$2.5", reference="2.5"),
    *answer(6, "marker", "⅝", "0.625", ".625", "5&#47;8", reference="5/8"),
    *answer(6, "marker", "0 1/2", "½", r"\frac12", reference="0.5"),
    *answer(6, "wrong", "1.000", reference="1000"),
    *answer(6, "wrong", "18.5", "17.99", "180", "8", "1/18", "18/20", "18 1/2", "18½", "18٫5", "18 ½", ".18"),
    # 7. No numbers.
    *answer(7, "marker",
        "18 COVID-19 tests", "x1 = 18", "x_1 = 18", "x_{12} = 18", "x₁ = 18", "18 m^2", "18 cm³", "18m2",
        "18 m<sup>2</sup>", r"18 \text{ m}^{2}", "18 kg of CO₂", "18 m/s^2", "by step 3, 18", "Option 2, 18 eggs",
        "Case 1: 18", "18 (see step 3)", "eighteen (18)",
    ),
    *rows(7, "flexible", "18 by Step 3", "18 m²", "18 eggs, as in option 2", "She needs 18 m^2 of H2O"),
    *answer(7, "no answer", "1\ufe0f\u20e38\ufe0f\u20e3", "⑱", "XVIII", "eighteen", "half a dozen", "none", "A18"),
    # 8. Numbers that cannot be read.
    *answer(8, "ambiguous",
        r"\sqrt{18}", r"\sqrt 18", r"\sqrt[3]{18}", "√18", "sqrt(18)", "f(18)", r"\log 18", "18^2", "18²", "18**2",
        "18<sup>2</sup>", "18^{th}", "18 squared", "18!= 3", "18th", "18\u1d57\u02b0", "18<sup>th</sup>",
        "the 18th of May", r"18\pi", "18π", "18 pi", "18x", "18e1", "18E+1", "1.8e1", r"18 \times 10^3", "18h30",
        "18m30s", "0x18", "18 R5", "18:30", "18:00", "18:1", "1,8", "18,00", "18.0.0", "18'6", "18′6″", "18k", "$18K",
        "18 thousand", "18 million", "$18M", "18 hundred", "1\u03368\u0336", "18/0", r"\frac{18}{x}", r"\binom{18}{1}",
        r"\frac{\frac{36}{2}}{1}", r"\cancel{18}", "2024-01-18", "1/18/2020", "18.01.2020", "May 18, 2020",
        "18 hundredths", "18 tenths", "18o", "abs(-18)", "sqrt(-18)", "√(18)",
    ),
    *answer(8, "ambiguous", "1'000", "1 000", "1.000,00", "1.000.000", "1,00,000", "1, 000", "1e3", reference="1000"),
    *rows(8, "no answer", r"\sqrt{18}", "10^18", "18k", "the 18th", "18:30"),
    *answer(8, "ambiguous", "1O", reference="1"),
    # 9. Signs.
    *answer(9, "marker",
        "- 18", "-18", "− 18", "–18", "\u201118", "\ufe6318", "\uff0d18", "&minus;18", "minus 18", "negative 18",
        "Minus $18", "-$18", "- $ 18", "$-18", "$ - 18", "(-18)", "x = -18", "2 - 20 = -18", "2 - 20 = - 18",
        "a profit of -18",
        reference="-18",
    ),
    *rows(9, "marker", r"\boxed{-18}", r"\boxed{- 18}", reference="-18"),
    *answer(9, "wrong", "- 18", "minus 18", "negative 18", "−18", "➖ 18", "(-18)", "minus 18 dollars"),
    *answer(9, "wrong", "18", "(18)", "+18", "a loss of 18", reference="-18"),
    *answer(9, "ambiguous",
        "--18", "- -18", "-(18)", "minus -18", "a negative number: 18", "profit - 18", "—18", "±18", "18 below zero",
        "18 negative", "18-", "|-18|", r"\pm 18", "+-18",
    ),
    *answer(9, "marker", "— 18", "(18)", "($18)", "positive 18", "a non-negative 18"),
    *rows(9, "flexible", "a balance of -18", "a balance of minus 18", reference="-18"),
    *rows(9, "flexible", "20 eggs, 38-18", "20 minus 18", "from 1 to 18"),
    *rows(9, "flexible wrong", "a balance of -18", "a balance of −$18"),
    # 10. What stands around a number.
    *answer(10, "marker",
        "18 %", "18 percent", "€18", "₹18", "18 ¢", "A$18", "18USD", "18 cents", "Rs. 18", "18 km/h",
        "18 miles per hour", "18°", "18 °C", r"18^\circ", "18-pack", "18 dozen", "18 sq. ft.", "“18”", "«18»", "'18'",
        "*18*", "*18* eggs", "__18__", "==18==", "<b>18</b>", "18<br>", r"\mathbf{18}", r"18~\text{eggs}",
        r"18\,\mathrm{km}", r"\left(18\right)", r"\textbf{18}", "\U0001f95a 18 \U0001f95a", r"{\color{red}18}", "`18`",
        "[18](answer)", "18\\\\", r"\begin{align}18\end{align}", "<answer>18</answer>", "*18*.", r"18\text{\%}",
        "18 eggs/hen", "18 o'clock", r"\underline{18}", "#18", "18。", "18元", "约18",
    ),
    *answer(10, "wrong", "18%", "18 percent", reference="0.18"),
    *rows(10, "marker",
        r"The answer is $\boxed{18}$ dollars.", "So the answer is 9*2=<<9*2=18>>18",
        r"The final answer is $\boxed{18}$. I hope it is correct.",
    ),
    # 11. The only number.
    *answer(11, "marker",
        "she sells 18 eggs", "about 18", "≈18", r"\approx 18", "approx. 18", "~18", "roughly $18.", "Mr. Smith has 18",
        "that Janet makes 18 dollars every day", "(B) 18", "D. 18", "it adds up to 18", "18 more than before",
        "18 times as many", "18 and no more eggs", "18 dollars or pounds", "18 a day", "Yes, 18", "Janet's 18 eggs",
        "an 18-year-old", "all 18", "18 to the nearest integer", "x ∈ {18}", "maybe 18", "exactly 18",
    ),
    *answer(11, "flexible", "unknown. She had 18.", "Yes! She has 18."),
    # 12. Further numbers.
    *answer(12, "ambiguous",
        "below. 18 eggs are left, and 18 hens", "18 dollars 50 cents", "18 dollars and 50 cents", "$18 50",
        "18 hours 30 minutes", "18 ft. 3 in.", "18 lbs., 3 oz.", "18—20", "18 — 20", "18–20", "18-20", "18 - 20",
        "18 → 20", "18 -> 20", r"18 \to 20", "18~20", "18..20", "18…20", "18 (or 20)", "18 (20)", "18 (20 with tax)",
        "18 (approximately 20)", "18 [20]", "18 / 20 / 22", "18|20", "18 or 20", "18 and 5 left over", "18 to 20",
        "18 through 20", "18; 20", "18. 20", "18? 20", "18 vs 20", "18 & 20", "[18, 20]", "{18, 20}", "(18, 20)",
        "18,20", "a = 18, b = 20", "1) 18", "1. 18 2. 20", "~~17~~ 18", "18 and a half", "18 and one third",
        "18 or twenty", "18 dollars fifty cents", "18 or", "one hundred 18", "18 and 1/2", "18, maybe 20", "18, no, 20",
        "18, so she makes 36", "18 eggs, then 36", "18 as well as 20", "18 eggs for $36", "18 by 20 feet",
        "Tom has 18, Ann has 20", "Tom: 18, Ann: 20", "3 is what 18 needs", "she sells 9 of the 18 eggs and keeps 9",
        "3 hens lay 18 eggs", "day 2: 18", "Day 2 - 18", "18 apples 20 pears", "2-day total: 18", "a) 18 b) 20",
        "18 (see 2)", "18 km (11 miles)", "18 minutes past 3", "18 to the nearest 10", "17.6, rounded to 18",
        "18 (rounded from 17.6)", "18?? Maybe 20", "18 up from 9", "18 where x = 2",
    ),
    # 13. Circumstances.
    *answer(13, "marker",
        "In 3 days she sells 18 eggs", "After 2 weeks, 18 remain", "18 eggs in 3 days", "18 eggs for 2 days",
        "18 per 2 weeks", "18 of 20", "18 of the 20 students", "18 out of 20", "Of the 20 students 18 passed",
        "18 every 2 hours", "in three days, 18 eggs", "in 18 days", "after 18 years", "for 18 weeks",
    ),
    *rows(13, "marker", "#### 18 eggs within 2 weeks"),
    *answer(13, "ambiguous",
        "18 eggs a day for 2 days", "18 per day for 2 days", "18 each day for 2 days", "for 2 days at 18 a day",
        "18 boxes of 20", "2 boxes of 18", "18% of 100", "1/2 of 36", "18 in 20", "18 at $2", "in 3 days for 18 hours",
        "18 trips in 3 cars", "In 18 days she sells eighteen", "$18 an hour for 2 hours", "18 in 2018",
        "18 each for 20", "18 per 20",
    ),
    # 14. Explanations.
    *answer(14, "marker",
        "18. She had 3.", "18! She had 3.", "18.She had 3.", "18 (since 9*2=18)", "18 (because 3 are left)",
        "18 (= 9 * 2)", "18 (9 x 2 = 18)", "18, which is 3 more than 15", "18 since 20 - 2 is 18", "18 as 2 * 9 = 18",
        "18, not 17", "18 (not 17)", "18 after selling 3", "18 by adding 15 and 3",
        "18 - the number of eggs in 2 boxes", "18 — she sells 9 for $2", "18; she had 20", "18 (9 eggs x $2)",
        "18 (20 - 2)", "18 ($18)", "18 (eggs)", "Janet makes $18 because 9 * 2 = 18", "She has 18 since 20 - 2 = 18",
        "18, given 9 eggs at $2", "18, as 2 * 9 = 18",
    ),
    *answer(14, "ambiguous",
        "18 (3 x 7)", "18 (2 + 20)", "18 - 2 eggs", "18 - x", "18 - two", "18 — or 20", "18 eggs. 3 left",
        "In 3 days, since it is 6 a day, 18", "9(2)", "18(2)", "(18)(2)", "18 (20", "He has $18 because 10 * .5 = 10",
        "Janet makes $18 because she sells 9", "Janet makes $18. She had 3.", "18 as many as 20", "18 eggs as of day 3",
    ),
    # 15. Equations.
    *answer(15, "marker",
        "9*2=18", "x = 18", "2(9) = 18", "(2)(9) = 18", "9 eggs per day for 2 days = 18 eggs", "2 × (10 − 1) = 18",
        "9 eggs x 2 = 18", r"2 \times 9 = 18", "9 + 9 equals 18", "9 * 2 is equal to 18", "36 / 2 = 18",
        r"\sqrt{324} = 18", "3^2 * 2 = 18", "half of 36 = 18", "18 = 18", "18 = x", "Total = 9 + 9 = 18",
        "10% of 180 = 18 dollars", "20 - 2 => 18", "f(2) = 18", "9 * 2 = 18 eggs in 2 days", "18 = the total",
        "20 eggs - 2 eggs = 18 eggs, which is 2 * 9", "$9 + $9 = $18", "90 eggs / 5 = 18",
        "20 - sold eggs = 20 - 2 = 18", "She makes 9 * 2 = $18 every day at the market.",
        "Therefore, 15 + 3 = 18 roses are red.", "In total, they played 7+8+3=18 games",
        "$9/hour * 2 hours = $18", "½ of 36 = 18", "12_{16} = 18",
    ),
    *answer(15, "wrong", "9 * 2 = 19"),
    *answer(15, "ambiguous",
        "9 + 9 = 18 = 2 * 9 = 20", "18 = 9*2", "18 = 20", "2x = 18", "x + 5 = 18", "18 - x = 18",
        "18 hours = 1080 minutes", "x = 3 and y = 18", "x = 3, y = 18", "18 + 2", "18 plus tax", "18 * 2", "9 * 2",
        "18 times 2", "18 divided by 2", "9 * 2 = 18, 18 + 3 = 21", "9 + 9 = 18 or 20", "18 ≈ 20", "20 → 2 = 18",
        "3 < 5 = 18", "1 hour = 18 dollars", "17.6 ≈ 18", "18 ≠ 20", "9 * 2 =", "-18 = 18", "1.5 dozen = 18",
        "x = 18. y = 20", "18 * €2", "10 less than twice that, 28 - 10 = 18", r"18 \times", "18 ·",
    ),
    # 16. Bounds and denials.
    *answer(16, "ambiguous",
        "not 18", "never 18", "it isn't 18", "at least 18", "at most 18", "more than 18", "less than 18", "over 18",
        "under 18", "up to 18", "between 18 and 20", ">18", "≥ 18", "< 18", r"\leq 18", "≠ 18", "18+", "18 or more",
        "18 or so", "18 or fewer", "18 at least", "18 and up", "18 is wrong", "18 is not right", "18 isn't right",
        "twice 18", "half of 18", "3 less than 21", "none of the 18", "anything but 18", "no less than 18",
        "the square of 18", "the opposite of 18", "other than 18", "anything except 18", "either 18",
        "the square root of 18",
    ),
    *rows(16, "ambiguous", "The answer is not 17 but 18"),
    *answer(16, "ambiguous", "one third of 54", reference="54"),
    *answer(16, "ambiguous", "a quarter of 72", reference="72"),
    # 17. Without a marker.
    *rows(17, "flexible",
        "18", "so 18.", "9 * 2 = 18", "She sells 9. That is $18.", "#### Day 1\nshe has 18", "17 (18)", "17—so 18",
        "18\nso that is it", "1,000 and 18", "\uff11\uff18", "17 or 18", "&#49;8",
    ),
    *rows(17, "flexible wrong", "18 eggs for 2 days", "18 dollars 50 cents", "18-20", "18 1/2"),
    *rows(17, "no answer", "", "eighteen", "####", "#### Solution", "The answer is: ", r"\boxed{}", "…", "$", "18/0"),
    # 18. Cut off.
    *rows(18, "truncated", "18", "#### Step 2: 18", "The answer is:", "9 * 2 =", "####", finished=False),
]
# fmt: on
