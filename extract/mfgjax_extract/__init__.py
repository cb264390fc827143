"""Router logits and expert choices from torch models, written as mfgjax traces."""
