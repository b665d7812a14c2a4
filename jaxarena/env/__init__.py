"""The decision problem: who acts, what they see, what they are paid."""
