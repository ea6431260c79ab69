"""Texts that a shell, sbatch or a terminal would take for more than a name: for whatever a user can name."""

from __future__ import annotations

HOSTILE = (
    "two words", "it's", 'say "hi"', "a\nb", "a\n#SBATCH --wrap=touch", "$(touch pwned)", "`touch pwned`",
    "; touch pwned", "&& touch pwned", "| touch pwned", "> pwned", "--wrap=touch", "-x", "a'; touch pwned; '",
    '"; touch pwned; "', "${IFS}touch", "*", "~root", "naïve ☃ ٣", "a\\", "a\r\nb", "a\x1b[2Jb", "%j%A",
    "\u2028line", "a\tb", "!!", "#comment", "a,b=c:d", "a/../b",
)  # fmt: skip
