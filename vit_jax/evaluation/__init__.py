"""What a trained model says of images: tests, predictions, features, attention."""
