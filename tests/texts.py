"""Texts that every tokenizer must give back."""

TEXTS = (
  'To be, or not to be: that is the question.',
  ' two  spaces,\ttab\n\n\nthree lines\n',
  'Zürich 東京 🙂 e\u0301 \x00 42 1,234.5',
  '',
)
