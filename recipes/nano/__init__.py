"""The demo model nano: data set, training, evaluation."""
