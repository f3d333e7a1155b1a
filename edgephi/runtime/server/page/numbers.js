// Numbers as people read them.

const plain = new Intl.NumberFormat("en");
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (number) => plain.format(number);

export function seconds(number) {
  if (number < 0.9995) return `${three.format(number * 1000)} ms`;
  if (number < 99.5) return `${three.format(number)} s`;
  return `${plain.format(Math.floor(number / 60))} min ${Math.round(number % 60)} s`;
}

export const rate = (number) => `${three.format(number)} tokens/s`;

/** A count of parameters: 3.82 billion. */
export function parameters(number) {
  if (number >= 1e9) return `${three.format(number / 1e9)} billion`;
  return `${three.format(number / 1e6)} million`;
}

/** What one answer took, as short texts. `numbers` is the server's field `edgephi`, or what the page measured. */
export function numbersOfAnswer(numbers) {
  const texts = [];
  if (numbers.decode_tokens_per_second > 0) texts.push(rate(numbers.decode_tokens_per_second));
  if (numbers.first_token_seconds > 0) texts.push(`first token ${seconds(numbers.first_token_seconds)}`);
  const tokens = numbers.generated_tokens;
  texts.push(tokens === 1 ? "1 token" : `${count(tokens)} tokens`);
  if (numbers.reused_tokens > 0) {
    texts.push(`${count(numbers.reused_tokens)} of ${count(numbers.prompt_tokens)} prompt tokens reused`);
  }
  return texts;
}
