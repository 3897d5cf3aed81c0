"""Mathematical answers: equal and unequal ones, texts that hang or attack a grader."""

# Each line: answers that all mean what the first one means.
EQUAL = r"""
\frac{3}{4} | 3/4 | \dfrac{3}{4} | \tfrac34 | 0.75 | \frac34 | .75 | \frac{6}{8} | 75\%
-\frac{1}{2} | \frac{-1}{2} | \frac{1}{-2} | -1/2 | −0.5 | -.5
2\frac{1}{3} | \frac{7}{3} | 7/3 | 2.3333333
0.3333333 | 1/3
\sqrt{8} | 2\sqrt{2} | 2\sqrt2 | \sqrt8 | 2 \cdot \sqrt{2} | \sqrt{4}\sqrt{2} | 2√2 | 2*sqrt(2)
\sqrt{8} | 2^{3/2}
3\sqrt{3} - 6 | -6+3\sqrt{3} | -6 + \sqrt{27}
\frac{1}{\sqrt{2}} | \frac{\sqrt{2}}{2} | \frac{\sqrt2}2 | sqrt(2)/2
\sqrt[3]{5} | 5^{1/3} | 5^{\frac{1}{3}}
\sqrt[3]{-8} | -2
\sqrt{3+2\sqrt{2}} | 1+\sqrt{2}
\frac {-3+ \sqrt {17}}{2} | \frac{\sqrt{17}-3}{2}
(3, 4) | \left(3, 4\right) | (3,4) | (\frac{6}{2}, 4.0)
(\sqrt{8}, \frac{\pi}{2}) | (2\sqrt{2}, \pi/2)
[1, 2) | \left[1,2\right) | \left[ \frac{2}{2}, 2 \right)
(-\infty, 2) \cup (3, \infty) | (3,+\infty)\cup(-\infty,2) | (3, ∞) ∪ (−∞, 2) | x<2 or x>3
(-\infty, 2) \cup (3, \infty) | x \in (-\infty, 2) \cup (3, \infty)
(-2, 1] | -2 < x \le 1 | x \in (-2,1] | \{x \mid -2 < x \leq 1\} | 1 \ge x > -2
x > 3 | (3, \infty) | 3 < x
1, 2 | 2, 1 | \{1, 2\} | \{2,1\} | x=1, x=2 | 1 and 2 | 1 \text{ or } 2 | 2 \text{ and } 1
1, 2 | x = 1 \text{ or } x = 2 | 1;2 | \left\{1,2\right\}
\sqrt{2}, -\sqrt{2} | \pm\sqrt{2} | -\sqrt2, \frac{2}{\sqrt2} | ±√2
1 \pm \sqrt{2} | 1+\sqrt{2}, 1-\sqrt{2} | 1-\sqrt2 and 1+\sqrt2 | x = 1 \pm \sqrt{2}
(1,2), (3,4) | (3,4),(1,2) | \{(1,2),(3,4)\}
50\% | 0.5 | 50 | \frac{1}{2}
50\% | 50%
12.5\% | 12.5 | \frac{1}{8}
90^\circ | 90 | 90 \text{ degrees} | 90 degrees | 90^{\circ} | 90°
10 \text{ inches} | 10 | 10 inches | 10\text{ in} | 10 \text{ inch}
5 \text{ cm} | 5\,\mathrm{cm} | 5 cm | 5 | 5\text{cm}
12\ \mathrm{m}^2 | 12 | 12 \text{ m}^2 | 12 \text{ square meters} | 12\text{ m}^{2}
5 dollars | \$5 | 5 | $5 | 5 \text{ dollars} | \$5.00
17 \, \mathrm{m/s} | 17 | 17 \text{ m/s}
320000 \mbox{ acres} | 320000 | 320,000 acres | 320{,}000
1st | 1
£5 | 5
36\pi \text{ square units} | 36\pi | 36\pi\text{ units}^2
\frac{3}{2} \text{ hours} | 1.5 hours | 1.5
\text{Evelyn} | Evelyn | evelyn | \mathrm{Evelyn} | \textbf{EVELYN}
\text{(B)} | B | (B) | \text{B} | (\mathrm{B}) | \mathbf{B}
\text{yes} | Yes
True | true
Fourth Quadrant | \text{fourth quadrant}
−5 | -5 | - 5 | –5
1,000 | 1000 | 1{,}000 | 1\,000 | 1\!,\!000 | 1,\!000 | 10^3 | 1e3
1,234,567 | 1234567
-12,345.5 | -12345.5
1.5e3 | 1500 | 1.5 \times 10^{3} | 1.5\cdot10^3 | 1.5 × 10^3
6.02 \times 10^{-3} | 0.00602
x = 5 | 5 | \boxed{x=5}
x=5 | 5=x | 2x=10
\boxed{7} | 7 | $7$ | \(7\) | \[7\] | \boxed{\boxed{7}} | 7.0 | 7.
The final answer is \(\boxed{D}\). | D | \text{(D)}
\displaystyle \frac{1}{2} | 1/2
\begin{pmatrix} 1 \\ 8 \\ 5 \end{pmatrix} | \begin{bmatrix}1\\8\\5\end{bmatrix}
\begin{pmatrix} 1 \\ 8 \\ 5 \end{pmatrix} | \begin{pmatrix} 1 \\ \frac{16}{2} \\ 5.0 \\ \end{pmatrix}
\begin{pmatrix} 1/2 & \sqrt{8} \\ 0 & -1 \end{pmatrix} | \begin{pmatrix} 0.5 & 2\sqrt2 \\ 0 & -1 \end{pmatrix}
x+1 | 1+x
(x-1)(x+1) | x^2-1 | x^{2} - 1 | -1 + x^2 | x²-1
26x^2+30x | 2x(13x+15) | 30x + 26x^2
y = 2x + 1 | 2x+1 | 2x - y = -1 | y=1+2x | y - 1 = 2x
2x - y = 1 | y = 2x-1 | 4x-2y=2
x-2y+6=0 | y = \frac{x}{2} + 3
(x-1)^2 + y^2 = 4 | x^2 - 2x + y^2 = 3
f(x) = x + 1 | x+1 | f(x) = 1 + x
2\pi | \pi \cdot 2 | 2π | 2 \pi | 2pi
\frac{\pi r^2}{3} | \frac{1}{3}\pi r^2
\sin 30^\circ | \frac{1}{2} | \cos 60°
\sin^2 x + \cos^2 x | 1
\sin(2x) | 2\sin x\cos x | \sin 2x
33\sin70 | 33 \sin 70^\circ
\tan\frac{\pi}{4} | 1
\ln 8 | 3\ln 2 | 3 \ln(2) | \log 8
\log_2 8 | 3 | \log_{2}{8}
\log_5(2) + 7 | 7+\frac{\ln 2}{\ln 5}
\frac{5+\ln2}{4} | \frac{5}{4} + \frac{\ln 2}{4}
e^{2x} | \exp(2x) | (e^x)^2
x^{10} | x^{5}x^5 | x^10
3^{99}-2^{99} | 3 \cdot 3^{98} - 2^{99}
2^{1984} - 3 | -3 + 4^{992}
5! | 120
\frac{n!}{(n-2)!} | n(n-1)
|-3| | 3
\left|x-1\right| | |1-x|
\binom{5}{2} | 10 | \dbinom{5}{2}
\lfloor 3.7 \rfloor | 3
17_9 | 17_{9}
4ab | 4ba | 4 a b
3+4i | 4i+3
(1+i)(1-i) | 2
\frac{-2x^2 + 24x -126}{(x-3)^4} | -\frac{2(x^2-12x+63)}{(x-3)^4}
a_1 + a_2 | a_{2}+a_{1}
\frac{2ab}{a + b} | \frac{2}{\frac{1}{a}+\frac{1}{b}}
9\times91\times2^{90} | 819 \cdot 2^{90}
{{0.24}^{k-1}}\times 0.76 | 0.76 \cdot 0.24^{k-1}
p = \frac{7}{11}, \; q = \frac{4}{11} | q = 4/11, p = 7/11
(m, n) = (3, 2) | (3,2)
3 : 7 | 3:7
\infty | +\infty | ∞
C: 7 | 7 | C
A: ab-a-b+1 | (a-1)(b-1) | A
\cos C = -\frac{1}{2} | -0.5
\varnothing | \emptyset | ∅
1, 2, and 3 | 3, 2, 1 | 1, 2 \text{, and } 3
\frac{\frac12}{3} | \frac16 | \frac{1/2}{3}
2.0 \times 10^8 \text{ m/s} | 200000000 | 2\cdot 10^8\ \mathrm{m/s}
8.0 \mathrm{~m} | 8 \text{ meters}
2x+1=y | y = 2x + 1 | 1+2x
f(x) = 3x^2 - 2 | 3x^2-2
\begin{cases} a=0 \\ b=2 \end{cases} | \begin{cases}a = 0\\b = 2\end{cases}
2a/5 + 1 \text{ or } \frac{2a+5}{5} | \frac{2a}{5}+1, 1+\frac{2a}{5}
0.5x | \frac{x}{2}
2\cdot(-3) | -6
x \ne 3 | x \ne 3
100, 200 | 200, 100
-4\frac12 | -4.5 | -\frac{9}{2}
10 \text{ and } 20 | 10, 20
C: 7 | (C) 7 | \text{C: } 7 | \textbf{(C) }7
C | (C) 7
4 2/3 | 14/3 | 4\frac{2}{3} | 4\ 2/3
1\ 1/2 | 1.5 | 1 1/2 | 3/2
1 000 000 | 1000000 | 1\,000\,000
1 million | 1000000 | 1 \text{ million} | 1,000,000
2 dozen | 24
3 hundred | 300
5 thousand | 5000
1.5 billion | 1500000000
5 million people | 5000000 | 5 \text{ million people}
\text{7 cm} | 7 cm | 7
\text{30 degrees} | 30^\circ | 30 deg | 30 | 30°
12 km/h | 12 \text{ km/h} | 12 \mathrm{km/h} | 12 kilometers per hour | 12 \text{ km per hour}
12 km/h | 12
5 USD | 5 | \$5 | 5 dollars
5€ | €5 | 5 euros | 5
25¢ | 25 cents | 25
30 mph | 30 miles per hour | 30 mi/h
9.8 m/s^2 | 9.8 \text{ m/s}^2 | 9.8
12 cm^2 | 12 square centimeters | 12 \text{ square cm} | 12 sq. cm
7 \text{ apples} | 7
7 \text{ red apples} | 7
5\text{ m}^{3} | 5 cubic meters
ab | ba
e^{-100} | e^{-50}e^{-50}
0.\overline{3} | 0.\bar{3} | 1/3 | 0.\bar 3
0.1\overline{6} | 1/6
\left[\begin{array}{cc}1&2\\3&4\end{array}\right] | \begin{pmatrix}1&2\\3&4\end{pmatrix}
\left[\begin{array}{cc}1&2\\3&4\end{array}\right] | \begin{array}{cc}1&2\\3&4\end{array}
\langle 1,2\rangle | (1,2)
5 x 10^3 | 5 × 10^3 | 5000
≈3.14 | 3.14 | \approx 3.14
x \approx 3.14 | 3.14
**5** | 5
n>=5 | n \ge 5
n<=5 | n \leq 5
x \not= 3 | x \ne 3 | x \neq 3 | x ≠ 3
6:00 PM | 6:00 pm | 6:00 p.m. | 6:00 \text{ PM} | \text{6:00 p.m.}
1011_{\text{two}} | 1011_2
\mathbb{R} | (-\infty,\infty) | x \in \mathbb{R} | ℝ
\sin^2 1 + \cos^2 1 - 1 | 0
\text{Tom and Jerry} | Tom and Jerry
\mathbf{x}+1 | 1+x
12 cm^2 | 12 sq. cm
1 000.5 | 1000.5 | 1,000.5
5 liters | 5 \text{ l} | 5 \text{ L}
45°C | 45 degrees Celsius | 45^\circ\text{C}
52 \text { or 54} | 52, 54 | \text{54 or 52}
5^{\text{th}} | 5th
5 percent | 5\% | 5 \text{ percent}
2 1/2 feet | 2.5 ft | 5/2
\log 100 | \ln 100
"""  # noqa: E501

# Each line: two that do not.
UNEQUAL = r"""
5 | -5
1/2 | 12
1.5 | 15
0.33 | 1/3
0.333333 | 0.33333
3 | 3.0001
\sqrt{8} | 8
\sqrt{2} | 1.41
\sqrt{2} | -\sqrt{2}
3\sqrt{3} - 6 | 6-3\sqrt{3}
[1,2) | (1,2)
[1,2] | (1,2)
(1,2) | (2,1)
(1,2) | 1,2
(1,2) | \{1,2\}
(1,2,3) | (1,2)
1,2 | 1
1,2 | 1,2,3
1,1,2 | 1,2,2
(-\infty,2)\cup(3,\infty) | (-\infty,2]\cup(3,\infty)
(-\infty,2) | (2,\infty)
\infty | -\infty
x=1, y=2 | x=2, y=1
x=5 | x=6
x = 5 | y = 5
x > 3 | x \ge 3
x > 3 | x < 3
x > 3 | 3
50\% | 5
50\% | 0.005
50\% | 5000
50\% | 0.5\%
5 \text{ cm} | 5 \text{ m}
5 cm | 5 inches
5 cm^2 | 5 cm
12\text{ cm}^2 | 12 \text{ cm}^3
5 dollars | 5 cents
£5 | €5
5 \text{ cm} | 6
2x | 2
2xy | 2
\text{Evelyn} | \text{Ellen}
\text{Evelyn} | \text{nylevE}
B | C
(B) | A
BEE | EBE
\text{listen} | \text{silent}
1,000 | 1
1,23 | 123
100, 200 | 100200
(1,000) | (1000)
\{100,200\} | \{100200\}
1.5e3 | 1.5e4
1.5 \times 10^{3} | 1.5
\pm 2 | 2
1 \pm \sqrt{2} | 1+\sqrt{2}
\begin{pmatrix}1\\2\end{pmatrix} | \begin{pmatrix}2\\1\end{pmatrix}
\begin{pmatrix}1&2\end{pmatrix} | \begin{pmatrix}1\\2\end{pmatrix}
\begin{pmatrix}1&2\\3&4\end{pmatrix} | \begin{vmatrix}1&2\\3&4\end{vmatrix}
x+1 | x-1
x^2 | 2x
x^2 - 1 | (x-1)^2
\sqrt{x^2} | x
|x| | x
x | X
x+y | x
y = 2x+1 | y = 2x-1
2x - y = 1 | y = 2x+1
x^2+y^2=1 | x^2+y^2=2
0 = 0 | x = 3
2\pi | 6.28
\pi | 2\pi
\pi | 22/7
\sin x | \cos x
\sin x | \sin y
\ln 2 | \log_{10} 2
\log_2 8 | \log_3 8
x^{10} | x^{1}0
x^{12} | x^{1}
2^{1984}-3 | 2^{1984}-2
3^{99} | 3^{99}+1
10^{50} | 10^{50}+1
5! | 5
\binom{5}{2} | \binom{5}{1}
17_9 | 17_8
17_9 | 17
17_9 | 16
1000_2 | 8
3+4i | 3-4i
x(y-1)=0 | 0
2x=6 | 6
1/0 | 1
\frac{1}{0} | \frac{2}{0}
1/0 | 1/0+1
5 | five
3:7 | 7:3
\overline{AB} | \overline{CD}
C: 7 | 8
C: 7 | B
x_1 | x_2
4\!:\!51\!:\!06 \text{ p.m.} | 4:51:07 p.m.
12345678.0 | 12345679
1, 2, and 3 | 1, 2
p = \frac12, q = \frac13 | p = \frac13, q = \frac12
(1,2)(3,4) | (1,2),(3,4)
\{1\} \cup \{2\} | \{1\}
\text{Saint-Pierre} | \text{Pierre-Saint}
A: B: C: D: E: 7 | A
A: B: C: D: E: 7 | C
A: B: C: D: E: 7 | 7
A. B. C. D. E. 7 | D
A: B: 7 | 7
A: B | B
A: 7 B: 8 | A
C: 7 | D: 7
12 | 1 2
345 | 3 4 5
1 000,5 | 1000.5
45°C | 45°F
2x^2 \text{ mod 7} | 2x^2
34 | 3$4
34 | 3\text{ }4
34 | 3~4
34 | \text{3 }4
1 2 | 2
4 2/3 | 14
2 1/2 | 21/2
5 million | 5
1 million | 1 thousand
5 \text{ factorial} | 5
7 \text{ is not the answer} | 7
5 \text{ or 6} | 5
3 \text{ not } 4 | 3
3 \text{ not } 4 | 34
7 wrong | 7
7 bananaxyz | 7
5 cm | 5 km
5 \text{ apples} | 5 \text{ oranges}
no | on
ten | net
\text{red} | \text{der}
\text{ab} | \text{ba}
e^{-100} | 0
e^{-100} | 2e^{-100}
e^{-1000} | 0
\sqrt{10^{60}+1} | 10^{30}
x=6=5 | 5
1=2=5 | 5
|x|=3 | 3
\sin 1 | \sin 1^\circ
90^\circ | \pi/2
\pi=5 | 5
6:00 PM | 6:00 AM
1011_{\text{two}} | 1011
5 \text{ USD} | 5 \text{ EUR}
\$5 | 5 cents
5 km/h | 5 mph
A: B | A
A: 7 | A: 8
() | 7
1 2 | 3
x^2 3 | x^{23}
5 hundred | 5
5 \text{ million} | 5
5 \text{ halves} | 5
5 \text{ or so} | 5
\$5 | 5 \text{ euros}
5 \text{ m/s} | 5 \text{ km/h}
5 m | 5
a=b=3 | 3
10^{-50}x | 0
e^{-x} | e^{-x}+10^{-60}
2^{-400} | 0
\frac{1}{10^{50}} | 0
10^{-50}\sqrt{2} | 0
10^{-50}\sqrt{2} | 10^{-50}\sqrt{3}
\log 100 | 2
C: 7 | D
"""

HANGS = [
    "5^(5^(5^(5^5)))",
    "9**9**9**9",
    "10^{10^{10}}",
    "9^{9^{9^{9}}}+1",
    "(10^{9})!",
    "\\binom{10^{9}}{5\\cdot10^{8}}",
    "e^{e^{e^{e^{e^{e^e}}}}}",
    "\\tan(10^{10^{10}})",
    "((a+b)^{999})^{999}",
    "(a+)+" * 90 + "!",
    "((" * 100 + "1" + "))" * 100,
    "(" * 200_000,
    "\\frac{1}{" * 40 + "2" + "}" * 40,
    "1," * 240,
    "\\pm" * 160,
    "|" * 490,
    "|x" * 240,
    "\\{" * 240,
    "\\sin" * 100,
    "2^" * 200 + "2",
    "5" + "«a»" * 160 + "!",
    "5" + "a" * 490 + "1",
    "\\begin{pmatrix}" * 30,
    "9" * 10**7,
    "\\text{" * 10**5,
    "\\" * 10**5,
    " and " * 10**5,
    "\\sqrt" + " " * 10**5 + "x",
    "1" + ",000" * 10**5,
    "1" * 10**6 + "%",
    "1 " * 4000,
    "1" + " 000" * 2000,
    "1" + " " * 9000 + "x",
    "\\begin{array}{c}" * 500,
    "«" * 480,
    "5" + "a^2" * 160 + "!",
    "5" + "per" * 160,
    "x^{x^{x^{x^{x^x}}}}",
    "\\ab" * 100 + "∧∨!",
    "(x)= " * 60 + " " * 190,
    "(" + "A" * 240 + "-" * 240,
    "\\frac{d}{dx}" * 40 + "x",
    "\\frac{d^4}{dx^4}" * 20 + "x^{x^x}",
]

HOSTILE = [
    "__import__('os').system('touch {file}')",
    "open('{file}', 'w')",
    'print("True")',
    "print(1)",
    "1) or print('1",
    "1\nprint(1)",
    "True",
    "lambda: 1",
    "x = True",
    "[x for x in (1,)]",
    "0 or 1",
    "1 if 1 else 2",
    "not 0",
    "'1'",
    '"1"',
    "\\text{1}'",
    'v("x")',
    "Integer(1)",
    "1;print('1')",
    "\\sqrt{__import__('os').system('touch {file}')}",
    "f'{1}'",
    "1}}\n1",
    "{0}",
    "%s",
    "x.__class__",
    "().__class__.__bases__[0].__subclasses__()",
    "exit()",
    "\\x31",
    "1 # x",
    "x:=1",
]
