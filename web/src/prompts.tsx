// The texts that come with unmix, every token with all its features: in the folder too, where nobody answers a prompt.
import { promptsKey, useData, useIndex } from "./data";
import { many, within } from "./format";
import { useKeys } from "./keys";
import { Failure, Head, None, Options, Over, Switch, Waiting } from "./parts";
import { go, link, replace } from "./route";
import { Reading, tokenwise } from "./texts";
import type { Builtin, Member } from "./types";

export const useBuiltins = (member: Member) => useData<Builtin[]>(promptsKey(member));

export const Builtins = ({ all, value, set }: { all: Builtin[]; value: number; set: (n: number) => void }) => (
  <Options><Switch label="texts" value={value} options={all.map((one, n) => [n, one.name] as const)} set={set} /></Options>
);

export const tokensRead = (ids: unknown[], truncated: boolean) => ` ${many(ids.length, "token")}${truncated ? "; the rest was cut off" : ""}.`;

export function PromptsPage({ member, n, position }: { member: Member; n: number; position: number }) {
  const { value: index } = useIndex(member);
  const { value: all, error } = useBuiltins(member);
  const found = all?.[n];
  const to = (...place: number[]) => link("m", member.name, "prompts", ...place);
  const step = (by: number) => n + by >= 0 && n + by < (all?.length ?? Infinity) && go(to(n + by)); // the texts may still be read
  useKeys({ j: () => step(1), k: () => step(-1) });
  return (
    <main class="wide">
      <Head kicker={`${member.name} · ${member.hook}`} title={found ? `Prompt: ${found.name}` : "Prompts"} />
      <Over member={member}> Values of these texts: from the model, when the site was built.</Over>
      {all && <Builtins {...{ all }} value={n} set={(next) => go(to(next))} />}
      <Failure error={error} />
      {found ? (
        <Reading {...{ member, index }} text={tokenwise(found)} at={within(position, 0, found.ids.length - 1)} choose={(at) => replace(to(n, at))} first={-1} said={tokensRead(found.ids, found.truncated)} />
      ) : all ? <None>There are {many(all.length, "text")}.</None> : !error && <Waiting />}
    </main>
  );
}
