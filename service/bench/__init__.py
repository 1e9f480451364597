"""What `flawscribe bench` measures, one module a subject. Every comparison is interleaved in one run: other programs and
a processor's temper then touch all sides alike, and ratios stand where seconds would not."""
