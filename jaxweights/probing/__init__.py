"""What a generative model does in feature space: designed training sets, measured features of what comes out."""
