"""Pairs of answers in words, by kind: equal ones, and unequal ones.

A line is "answer | answer" or "answer | answer | answer": all equal, or each unequal to the first.
"""

EQUAL = {
    "full-width letters and digits": """
３．５亿 | 3.5亿
１．５ｋｍ | 1.5km
Ｔｏｋｙｏ　２０２０ | Tokyo 2020
""",
    "composed and decomposed characters": """
Zu\u0308rich | Zürich
E\u0301mile Zola | Émile Zola
한국 | \u1112\u1161\u11ab\u1100\u116e\u11a8 | 한 국
ﾊﾟﾝ | パン
""",
    "quotation marks and brackets": """
«Paris» | Paris | ‹Paris› | 『Paris』 | （Paris） | "Paris" | 【Paris】
„1.5“ | 1.5 | [1.50] | '1.5'
A | (A) | "a" | «A»
O´Neil | O'Neil | ONeil | O‘Neil | O’Neil | OʼNeil | Oʹ‚Neil′
Hawaiʻi | Hawai'i
the ”Faust” | Faust″
""",
    "characters that do not print": """
\u2066Rome\u2069 | Rome | Ro\u00adme | \u200fRome | Rome\ufeff
New\u00a0York | New\u3000York | New\u2009York | New York
❤\ufe0f | ❤
""",
    "ligatures and letters of two": """
ﬂour | flour
Weiß | WEISS | weiss
C♯ minor | C# minor
№ 5 | No 5 | No. 5
H₂O | H2O
""",
    "digits of other scripts": """
१९८४ | 1984
٥٪ | 5%
٣٫٥ كم | 3.5 كم
١٬٢٣٤ كم | 1234 كم
""",
    "thousands": """
1,234,567 km | 1234567 km
12,34,567 rupees | 1234567 rupees
1\\,000 km | 1\u2009000 km | 1\u00a0000 km | 1,000 km | 1{,}000 km
""",
    "one number in two spellings": """
½ mile | 1/2 mile | 1⁄2 mile
1½ miles | 1 1/2 miles
10⁻⁶ m | 10^{-6} m | 10^-6 m
-5 °F | −5 °F | - 5 °F
.5 km | 0.5 km
+5 degrees | 5 degrees
1984–85 season | 1984-85 season | 1984 – 85 season
10∶30 a.m. | 10:30 am
5 % of voters | 5% of voters
x + 1 | x+1
x / y | x/y
3x - 5 | 3x-5
n - 1 | n−1
p = .05 | p=0.05
E = mc^2 | E=mc²
GDP > debt | GDP>debt
5 m / s | 5 m/s
[0, 1) | [0,1)
x**2 | x^2
> 5 mg | >5 mg
≤ 5 | <= 5
≥5 mg | >= 5 mg
7-0 win | 7‐0 win | 7‑0 win | 7‒0 win | 7—0 win | 7―0 win | 7－0 win
3/4 cup | 3∕4 cup
5'10 tall | 5’10 tall | 5′10 tall | 5‘10 tall | 5‚10 tall
3"5 | 3”5 | 3″5 | 3„5
5' 10" | 5′ 10″ | 5' 10''
10~20 kg | 10〜20 kg | 10～20 kg
""",
    "marks that change nothing": """
COVID-19 | COVID19
F-16 | f16
5-year plan | 5year plan
AC/DC | ACDC
**Paris** | Paris
It is 1.5. | it is 1.5
Lego™ | Lego | Lego® | ©Lego | Lego℠
3, 4 and 5 | 3 4 and 5
Yahoo! | Yahoo
F-16 | F16
Paris - France | Paris France
- Paris | Paris
<b>Paris</b> | <b> Paris </b>
the 1980's | the 1980s
the "5" | the 5
Paris (France) | Paris, France
= 5 | 5
""",
}

UNEQUAL = {
    "a point": """
15 | (1.5) | [1.5] | “1.5” | 1,5
15 km | 1.5 km | 1,5 km
v12 | v1.2
Python 3.1 | Python 3.10 | Python 31
35亿 | 3.5亿 | ３．５亿
$15M | $1.5M
GPT-35 | GPT-3.5
5 km | .5 km
٣٥ | ٣٫٥
19216811 | 192.168.1.1
""",
    "a sign": """
5 degrees | -5 degrees | −5 degrees | - 5 degrees | (-5) degrees
3°C | -3°C
$5 million | -$5 million
气温5度 | 气温-5度
1e5 | 1e-5
x | -x
∞ | -∞
US$5 | -US$5
₹5 | -₹5
CHF 5 | -CHF 5
(x+1) | -(x+1) | -x+1
\\sqrt{2} | -\\sqrt{2}
sin x | -sin x
-1 | +/-1 | ± 1
2x3 | 2x-3
3x 5 | 3x - 5
n1 | n-1
xy | x-y | x - y
(x+1)5 | (x+1)-5
""",
    "a colon, slash or hyphen": """
1030 pm | 10:30 pm
169 ratio | 16:9 ratio
John 316 | John 3:16
12 mile | 1/2 mile | ½ mile
198485 | 1984-85 | 1984–85
21 | 2-1 | 2 - 1 | 2:1 | 2/1
53 win | 5-3 win
247 | 24/7
1x | 1/x
5 ms | 5 m/s
5 Nm | 5 N/m
x/y | x*y | xy
1(x+1) | 1/(x+1)
1/(x+1) | 1/x+1
(x+1)/2 | x+1/2
9.11 | 9/11
13 | ①③ | (1)(3)
""",
    "a power": """
102 km | 10² km | 10^2 km | 10^{2} km
2n | 2ⁿ
11/2 | 1½
102 | 10₂
3\\sqrt{3} | 3^{\\sqrt{3}}
120 | 120!
n | n!
x2 | x**2 | x²
2x | 2ˣ
56 | ⁵6
10²³ | 10²3
log23 | log₂3
""",
    "a mark that a word ends with": """
C | C++ | C# | C♯
C++ | C#
F | F#
A | A+ | A- | A*
O+ | O- | O
AB | AB+ | AB-
Sgr A | Sgr A*
Na | Na+
Cl | Cl-
BBB | BBB-
ClO | ClO-
18 | 18+
1990 | 1990-
Disney | Disney+
""",
    "an operator": """
x+1 | x-1 | x1
x + 1 | x - 1
2x+1 | 2x-1
5 - 3 | 5 3
34 | 3*4 | 3×4 | 3·4
5 mg | <5 mg | >5 mg | < 5 mg
x<5 | x>5
<€5 million | >€5 million
> half | < half | half
GDP > debt | GDP < debt
<(5) | >(5) | (5)
5 | !=5 | ≠ 5
[0,1) | (0,1] | [0,1] | (0,1)
(-∞, 5] | (-∞, 5)
123 | 1,2,3
""",
    "a percent sign": """
5 of voters | 5% of voters | 5‰ of voters
12.5% | 125%
five | five%
""",
    "a prime": """
30′ | 30″ | 30
5' | 5" | 5
f(x) | f'(x) | f''(x)
""",
    "a letter": """
Maria | Mária
A型 | 型 | B型
""",
}
