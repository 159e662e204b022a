"""The model side: data, tokens, batches, training, prediction. It knows neither Temporal nor the store."""
