// Numbers as people read them.

const plain = new Intl.NumberFormat("en");
const three = new Intl.NumberFormat("en", { maximumSignificantDigits: 3 });

export const count = (number) => plain.format(number);

export function seconds(number) {
  if (number < 0.9995) return `${Math.max(1, Math.round(number * 1000))} ms`;
  if (number < 99.5) return `${number.toFixed(number < 9.995 ? 2 : 1)} s`;
  const whole = Math.round(number);
  return `${plain.format(Math.floor(whole / 60))} min ${whole % 60} s`;
}

export const megabytes = (bytes) => `${three.format(bytes / 1e6)} MB`;

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
  if (numbers.prompt_tokens > 0) {
    const reused = numbers.reused_tokens > 0 ? `, ${count(numbers.reused_tokens)} reused` : "";
    texts.push(`prompt ${count(numbers.prompt_tokens)}${reused}`);
  }
  return texts;
}
