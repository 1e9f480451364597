"""A flaw in words: product cards, rules (no LLM), a memory of reviewed flaws, and a vision LLM."""
