"""The parts that mixers and models are made of, and the roles of their parameters."""
