"""The paper's theorems with numbers: each checked on many games, its bound beside what was measured."""
